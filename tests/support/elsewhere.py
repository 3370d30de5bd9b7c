"""Letting the test process publish to another broker than the run's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings as django_settings
from django.test import override_settings
from kombu import pools

from orchestrator.celery import get_app


@contextmanager
def pointed_at(url: str, options: Mapping[str, Any] | None = None, *, state: str = "", **celery: Any) -> Iterator[None]:
    """Publish to ``url`` while a block runs.

    Args:
        options: of the transport.
        state: Redis of the state, where the broker is none.
        celery: more of Celery's settings, in lower case.
    """
    app = get_app()
    own = dict(options or {})
    changed = {"broker_url": url, "broker_transport_options": {**app.conf.broker_transport_options, **own}, **celery}
    before = {name: app.conf[name] for name in changed}

    def begin_anew(conf: Mapping[str, Any]) -> None:
        pools.reset()
        app._pool = None
        app.conf.update(conf)
        # Its queues and producers were made for the other one.
        app.__dict__.pop("amqp", None)

    ours = {**django_settings.ORCHESTRATOR, **({"STATE_URL": state} if state else {})}
    django = {f"CELERY_{name.upper()}": value for name, value in celery.items()}
    django |= {"CELERY_BROKER_URL": url, "CELERY_BROKER_TRANSPORT_OPTIONS": own, "ORCHESTRATOR": ours}
    try:
        with override_settings(**django):
            begin_anew(changed)
            yield
    finally:
        begin_anew(before)
