"""A pool of database connections never crosses a fork: whoever is forked begins without his parent's.

In the child the threads of a psycopg pool are gone, its lock may be held for ever, and its sockets are still the
parent's: two processes would speak on one connection.
"""

from __future__ import annotations

import os
import sys
from typing import Any

#: What this process inherited. Kept, since a pool that is collected waits for its lock.
_inherited: list[Any] = []
_watched: set[int] = set()


def watch() -> None:
    """Have every process that is forked from this one, in whatever way, begin without its pools."""
    if not _watched and hasattr(os, "register_at_fork"):
        _watched.add(os.getpid())
        os.register_at_fork(after_in_child=_leave)


def close() -> None:
    """Close this thread's connections and this process's pools; the next use makes others."""
    django = sys.modules.get("django.db")
    if django is None:
        return
    for connection in django.connections.all(initialized_only=True):
        connection.close()
    for alias in list(_pools()):
        django.connections[alias].close_pool()


def _leave() -> None:
    """Forget pools without a word to the server, which would end the parent's sessions."""
    pools = _pools()
    if not pools:
        return
    _inherited.extend(pools.values())
    for connection in sys.modules["django.db"].connections.all(initialized_only=True):
        if connection.alias in pools and connection.connection is not None:
            _inherited.append(connection.connection)
            connection.connection = None
    pools.clear()


def _pools() -> dict[str, Any]:
    """Return Django's pools by alias; it keeps them where all its connections to PostgreSQL find them."""
    backend = sys.modules.get("django.db.backends.postgresql.base")
    found: dict[str, Any] = getattr(getattr(backend, "DatabaseWrapper", None), "_connection_pools", {})
    return found
