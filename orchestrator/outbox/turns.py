"""Whose turn it is: rows of one ordering key are sent one after the other, in the order of their numbers.

Whoever publishes under a key keeps it to himself until his transaction has ended. So
numbers of one key grow in the order of their commits, and what is not seen when a row is
looked at will not appear before it later. A row is sent only when no older one of its key
is left; whoever finds one leaves his own to the relays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from django.db import connections
from django.db.models import Exists, Min, OuterRef, Q

from orchestrator.outbox.models import OutboxMessage

#: Advisory locks that all keys share: a bulk under ever so many keys must not use up the server's table of locks.
LOCKS = 4096
#: What tells them from other people's advisory locks.
SPACE = 0x0B0C5
#: What is noted at a row that its publisher left to the relays.
WAITS = "an older message of its ordering key was not sent yet"


def hold(keys: Iterable[str], alias: str) -> None:
    """Keep everybody else from publishing under some keys until the open transaction has ended.

    SQLite has one writer anyway. Elsewhere than on PostgreSQL the order of transactions that publish under one key
    at the same time is left to chance.
    """
    if connections[alias].vendor != "postgresql":
        return
    # In one order for all, so that two who want the same keys do not wait for each other.
    locks = sorted({_lock(key) for key in keys if key})
    if locks:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, lock) FROM unnest(%s::int[]) AS lock", [SPACE, locks])


def behind(row: OutboxMessage, alias: str, sent: Sequence[int]) -> bool:
    """Whether a row has to wait for an older one of its key.

    Args:
        sent: numbers of rows that were sent and are still there.
    """
    if not row.ordering_key:
        return False
    older = _ordered(alias).filter(ordering_key=row.ordering_key, pk__lt=row.pk)
    return bool(older.exclude(pk__in=sent).exists())


def due(alias: str, now: datetime) -> Any:
    """Return the rows that a relay may take: due, and behind none of their key that is not."""
    waiting = _ordered(alias).filter(ordering_key=OuterRef("ordering_key"), pk__lt=OuterRef("pk"), due_at__gt=now)
    return _rows(alias).filter(Q(ordering_key="") | ~Exists(waiting), due_at__lte=now)


def in_turn(rows: Sequence[OutboxMessage], alias: str) -> list[OutboxMessage]:
    """Return those of some claimed rows that are behind no row of another claim: two relays may have looked at once."""
    keys = {row.ordering_key for row in rows if row.ordering_key}
    if not keys:
        return list(rows)
    others = _ordered(alias).filter(ordering_key__in=keys).exclude(claim=rows[0].claim)
    first = dict(others.order_by().values_list("ordering_key").annotate(Min("pk")))
    return [row for row in rows if row.pk < first.get(row.ordering_key, row.pk + 1)]


def _lock(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest()) % LOCKS


def _ordered(alias: str) -> Any:
    """Return the rows that wait and have a key, in the words of the index of such rows, so that it is used."""
    return _rows(alias).filter(due_at__isnull=False).exclude(ordering_key="")


def _rows(alias: str) -> Any:
    return OutboxMessage.objects.using(alias)
