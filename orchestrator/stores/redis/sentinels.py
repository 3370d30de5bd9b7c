"""A Redis that sentinels watch: each connection asks them where the primary is.

The address is written as for Celery's broker, and names the primary:
``sentinel://:password@one:26379;sentinel://two:26379/0?master_name=ours``. User, password and
``ssl_…`` are the primary's; ``sentinel_username``, ``sentinel_password``, ``sentinel_ssl=true`` and
``sentinel_ssl_…`` are the sentinels'.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

#: Where a sentinel listens unless its address says otherwise.
PORT = 26379


class SentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """A pool in which further threads wait for a connection, and connections lead to whoever is the primary."""

    def __init__(self, master: str, sentinels: Any, **options: Any) -> None:
        super().__init__(master, sentinels, **options)  # type: ignore[no-untyped-call]


def sentinel_pool(url: str, **options: Any) -> SentinelPool:
    """Return a pool of connections to the primary.

    Args:
        options: of the pool and its connections.

    Raises:
        ValueError: the URL does not parse, or names no primary.
    """
    address, _, query = url.partition("?")
    asked = dict(parse_qsl(query))
    parts = [urlsplit(part if "://" in part else f"sentinel://{part}") for part in address.split(";")]
    master = asked.pop("master_name", "")
    if not master:
        raise ValueError(
            "it names no primary; set CELERY_BROKER_TRANSPORT_OPTIONS['master_name'], or end it in ?master_name=…"
        )
    bounds = {name: value for name, value in options.items() if name.startswith("socket_") or name == "retry"}
    own = _options(asked, ("username", "password", "ssl"), "sentinel_")
    tls = _options(asked)
    database = next((path for part in parts if (path := part.path.strip("/"))), "0")
    sentinels: Any = Sentinel
    return SentinelPool(
        master,
        sentinels([(part.hostname or "localhost", part.port or PORT) for part in parts], sentinel_kwargs=bounds | own),
        connection_class=SentinelManagedSSLConnection if tls else SentinelManagedConnection,
        username=next((unquote(part.username) for part in parts if part.username), None),
        password=next((unquote(part.password) for part in parts if part.password), None),
        db=int(database),
        **tls,
        **options,
    )


def _options(asked: dict[str, str], names: tuple[str, ...] = (), prefix: str = "") -> dict[str, Any]:
    """Return the named options and those of TLS, as redis-py wants them."""
    found: dict[str, Any] = {
        name.removeprefix(prefix): value
        for name, value in asked.items()
        if name.removeprefix(prefix) in names or name.startswith(f"{prefix}ssl_")
    }
    for name in found.keys() & {"ssl", "ssl_check_hostname"}:
        found[name] = found[name].lower() in ("1", "true", "yes")
    return found
