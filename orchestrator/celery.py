"""Composition root: the one place where everything is wired."""

from celery import Celery


def get_app() -> Celery:
    return Celery("orchestrator")
