"""Django system checks on how databases are connected to: pools in a process, and poolers in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register
from django.db import DEFAULT_DB_ALIAS, connections
from django.db import Error as DatabaseFailure

_TAG = "orchestrator"
_POSTGRESQL = ("django.db.backends.postgresql", "django.contrib.gis.db.backends.postgis")


@register(_TAG)
def check_pools(**_: Any) -> list[CheckMessage]:
    """E006 a pool that Django would refuse at the first use."""
    return [message for alias in connections for message in _pool(alias, connections.settings[alias])]


def _pool(alias: str, given: dict[str, Any]) -> Iterator[CheckMessage]:
    if given["ENGINE"] not in _POSTGRESQL or not given.get("OPTIONS", {}).get("pool"):
        return
    age = given.get("CONN_MAX_AGE", 0)
    if age != 0:
        yield Error(
            f"DATABASES[{alias!r}] has OPTIONS['pool'] and CONN_MAX_AGE = {age!r}; Django refuses to connect.",
            hint="Leave CONN_MAX_AGE out, or set it to 0: the pool keeps the connections.",
            id="orchestrator.E006",
        )
    if find_spec("psycopg_pool") is None:
        yield Error(
            f"DATABASES[{alias!r}] has OPTIONS['pool'], and psycopg_pool is not installed.",
            hint="pip install 'psycopg[pool]'",
            id="orchestrator.E006",
        )


@register(_TAG, deploy=True)
def check_poolers(databases: Iterable[str] | None = None, **_: Any) -> list[CheckMessage]:
    """W024 cursors of the server through a pooler that gives each transaction another connection."""
    return [message for alias in databases or (DEFAULT_DB_ALIAS,) for message in _cursors(alias)]


def _cursors(alias: str) -> Iterator[CheckMessage]:
    given = connections.settings[alias]
    if connections[alias].vendor != "postgresql" or given.get("DISABLE_SERVER_SIDE_CURSORS"):
        return
    try:
        shared = _shared(alias)
    except DatabaseFailure:
        # That it is away is what health checks are for.
        return
    if shared:
        yield Warning(
            f"DATABASES[{alias!r}] leads to a pooler that gives each transaction another connection, and "
            "DISABLE_SERVER_SIDE_CURSORS is off: QuerySet.iterator() outside of a transaction loses its cursor.",
            hint="Set DISABLE_SERVER_SIDE_CURSORS to True; orchestrator/docs/production.md has what pgbouncer needs.",
            id="orchestrator.W024",
        )


def _shared(alias: str) -> bool:
    """Whether two connections that are open side by side met in one process of the server.

    That is certain where it is seen; a pooler under load may hide it.
    """
    given = connections.settings[alias]
    # Not out of a pool of this process, which may have but one.
    plain = {**given, "OPTIONS": {name: value for name, value in given["OPTIONS"].items() if name != "pool"}}
    pair = [type(connections[alias])(plain, alias) for _ in range(2)]
    seen: list[set[int]] = [set(), set()]
    try:
        for _ in range(20):
            for one, pids in zip(pair, seen, strict=True):
                with one.cursor() as cursor:
                    cursor.execute("SELECT pg_backend_pid()")
                    pids.add(cursor.fetchone()[0])
            if seen[0] & seen[1]:
                return True
        return False
    finally:
        for one in pair:
            one.close()
