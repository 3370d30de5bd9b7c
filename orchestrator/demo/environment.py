"""Keeps the demo away from whatever the real project is configured with."""

from __future__ import annotations

from collections.abc import Mapping

#: Variables that would lead to somebody's real broker, database or files.
FOREIGN = ("REDIS_URL", "DATABASE_URL", "DJANGO_SETTINGS_MODULE")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without anything that configures the real project."""
    return {
        name: value
        for name, value in environment.items()
        if name not in FOREIGN and not name.startswith(("ORCHESTRATOR_", "CELERY_"))
    }
