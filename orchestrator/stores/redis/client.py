"""One Redis client per process and URL, made when first asked for.

Redis-py's own defaults retry a failed command several times with pauses between;
here every call is tried once and is bounded, so that a caller that must answer
within seconds (a producer, a settling worker) can say what is wrong in time.
"""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.contracts.errors import InvalidOption
from orchestrator.stores.redis.sentinels import sentinel_pool

#: What a URL may begin with.
SCHEMES = ("redis", "rediss", "unix", "sentinel")
#: Connections one process may hold to one server; further threads wait for one.
MAX_CONNECTIONS = 32

_clients: dict[tuple[str, float], redis.Redis] = {}
_lock = threading.Lock()


def client(url: str, timeout: float) -> redis.Redis:
    """Return this process's client for ``url``.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it, or ``sentinel://``; see
            :mod:`orchestrator.stores.redis.sentinels`.
        timeout: seconds that connecting, and every reply, may take.

    Raises:
        InvalidOption: the URL has another scheme or does not parse.
    """
    key = (url, timeout)
    found = _clients.get(key)
    if found is None:
        with _lock:
            found = _clients.get(key)
            if found is None:
                found = _clients[key] = _connect(url, timeout)
    return found


def location(url: str) -> str:
    """Return ``url`` without user, password and query, fit for logs and messages."""
    try:
        parts = urlsplit(url.partition(";")[0])
        where = parts.hostname or ""
        if parts.port:
            where = f"{where}:{parts.port}"
    except ValueError:
        return "an unreadable URL"
    return f"{parts.scheme}://{where}{parts.path}"


def _connect(url: str, timeout: float) -> redis.Redis:
    if url.partition("://")[0] not in SCHEMES:
        raise InvalidOption(
            f"Orchestrator keeps its state in Redis or Valkey, and {location(url)!r} is no address of one: "
            "set ORCHESTRATOR_STATE_URL to a redis://, rediss://, sentinel:// or unix:// URL."
        )
    make: Any = sentinel_pool if url.startswith("sentinel://") else redis.BlockingConnectionPool.from_url
    try:
        pool = make(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            # The same reply shapes from every server, and no handshake that an older one must refuse.
            protocol=2,
            driver_info=None,
        )
    except ValueError as error:
        raise InvalidOption(f"ORCHESTRATOR_STATE_URL = {location(url)!r} does not parse: {error}") from error
    return redis.Redis(connection_pool=pool)


def _forget() -> None:
    """Drop what a parent process opened: two processes on one socket would mix up replies."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held the old one while forking
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget)
