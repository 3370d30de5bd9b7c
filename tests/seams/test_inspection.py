"""What a worker answers over the broker, and so what Flower shows of it."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest
from django.conf import settings

from orchestrator.celery import get_app
from orchestrator.engine.inspection import configuration
from tests.conftest import Platform


@pytest.mark.parametrize(("question", "options"), [("conf", {}), ("conf", {"with_defaults": True}), ("report", {})])
def test_a_worker_tells_its_settings_without_secrets(platform: Platform, question: str, options: dict) -> None:
    """Celery's settings only: Django's hold passwords, and the broker's is in a URL."""
    worker = platform.worker(pool="solo")
    secret = urlsplit(settings.CELERY_BROKER_URL).password
    assert secret, "the broker of the tests has no password, so nothing could leak"
    answers = getattr(get_app().control.inspect([f"{worker.name}@test"], timeout=20), question)(**options)
    said = json.dumps(answers)
    assert "worker_prefetch_multiplier" in said
    assert ("worker_pool_restarts" in said) is bool(options)
    for hidden in (secret, settings.SECRET_KEY, "SECRET_KEY", "DATABASES", "CELERY_BROKER_URL"):
        assert hidden not in said, hidden


def test_credentials_are_masked_wherever_a_url_stands() -> None:
    """In lists and mappings too."""
    app = get_app()
    changes = {"broker_transport_options": {"nodes": ["redis://me:hidden@a", "redis://b"]}, "broker_read_url": None}
    assert app.conf["task_serializer"]
    app.conf.maps.insert(0, changes)
    try:
        table = configuration(app, with_defaults=True)
    finally:
        app.conf.maps.remove(changes)
    assert table["broker_transport_options"] == {"nodes": ["redis://********@a", "redis://b"]}
    assert table["broker_read_url"] is None
