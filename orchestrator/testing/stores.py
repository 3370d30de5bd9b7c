"""Stores for one test run: a Valkey of its own, thrown away at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings as django_settings
from django.test import override_settings

from orchestrator.celery import get_app
from orchestrator.launch.broker import EmbeddedBroker


@contextmanager
def own_stores() -> Iterator[str]:
    """Keep leases, records and letters in an embedded Valkey within the block; yields its URL.

    Raises:
        RuntimeError: no server is found; the message tells what to install.
    """
    with tempfile.TemporaryDirectory(prefix="orchestrator-stores-") as directory:
        server = EmbeddedBroker(Path(directory), persistent=False)
        url = server.start()
        try:
            with use(url):
                yield url
        finally:
            server.stop()


@contextmanager
def use(url: str) -> Iterator[None]:
    """Keep leases, records and letters in the Redis at ``url`` within the block."""
    ours = {**getattr(django_settings, "ORCHESTRATOR", {}), "STATE_URL": url}
    try:
        with override_settings(ORCHESTRATOR=ours):
            _rebuild()
            yield
    finally:
        _rebuild()


def _rebuild() -> None:
    """Let the app build its policies again, out of the settings as they are now."""
    app = get_app()
    for kept in ("stack", "_publish", "_redaction", "limits"):
        app.__dict__.pop(kept, None)
    for task in app.tasks.values():
        task.__dict__.pop("_chains", None)
        task.__dict__.pop("_holds", None)
