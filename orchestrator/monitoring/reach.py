"""Whether the things that the platform stands on can be reached."""

from __future__ import annotations

from typing import Any

from django.db import connections

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.contracts.addresses import SCHEMES, as_redis
from orchestrator.monitoring.health import Check
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.letters import letters_stream

REDIS_SCHEMES = SCHEMES


def database(_timeout: float) -> str:
    """Ask the default database for one row."""
    connection = connections["default"]
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    return connection.vendor


def broker(timeout: float) -> str:
    """Ask the broker for a sign of life."""
    url = broker_url()
    if not url:
        raise ConnectionError(
            "no broker is known: set ORCHESTRATOR_BROKER_URL, or start the embedded one with 'manage.py up'"
        )
    if url.startswith(REDIS_SCHEMES):
        client(redis_url(url), timeout).ping()
        return "redis"
    with get_app().connection_for_write(connect_timeout=timeout) as connection:
        connection.ensure_connection(max_retries=1, timeout=timeout)
        return str(connection.transport_cls)


def letterbox(timeout: float) -> str:
    """Ask where dead letters wait for the relay, and whether it could take one more."""
    settings = conf.settings()
    url = conf.state_url()
    waiting = letters_stream(url, settings.key_prefix, timeout).size()
    role: list[Any] = client(url, timeout).execute_command("ROLE")  # type: ignore[no-untyped-call]
    if role[0] not in (b"master", "master"):
        raise ConnectionError("this Redis is a replica, which takes no letters")
    return f"{waiting} waiting"


def broker_url() -> str:
    """Return the URL that the current app publishes to."""
    return str(get_app().conf.broker_write_url or get_app().conf.broker_url or "")


def redis_url(url: str) -> str:
    """Return a broker URL as the stores read it, with what Celery's settings say about sentinels and TLS."""
    app_conf = get_app().conf
    return as_redis(url, app_conf.broker_transport_options, app_conf.broker_use_ssl)


#: What must answer before this process can do anything of use.
READY = (
    Check("database", database, timeout=3.0),
    Check("broker", broker, timeout=3.0),
    Check("letterbox", letterbox, timeout=3.0),
)
