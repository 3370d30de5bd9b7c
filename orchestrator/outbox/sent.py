"""Rows of messages that were sent: kept until it is known how the message ended, then forgotten.

A broker may confirm a message and lose it later; as long as nobody knows of an end, the
row can send it again (:mod:`orchestrator.outbox.reconciling`). Ends are told by the worker
in passing (:mod:`orchestrator.policies.outbox`) and forgotten in bulk by relays.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from orchestrator import conf
from orchestrator.conf import Settings
from orchestrator.contracts.message import Parcel
from orchestrator.outbox.models import OutboxMessage
from orchestrator.stores.redis.ended import RedisEndedRows

#: Rows forgotten by one statement, so that no lock is held for long.
BATCH = 500


def kept() -> bool:
    """Whether rows are kept once their message was sent."""
    return conf.settings().outbox_sent_days != 0


def done(rows: Any) -> None:
    """Note that the messages of some rows (a query) were sent."""
    if kept():
        # Its claim is given up here: as long as it waited, a duplicate would have found it.
        rows.update(due_at=None, sent_at=timezone.now(), lock=None, claim="", error="")
    else:
        forget(rows)


def forget(rows: Any) -> int:
    """Delete rows (a query) in one statement; Django's delete() would open a transaction around it."""
    return int(rows._raw_delete(rows.db) or 0)


def until(parcel: Parcel, settings: Settings, now: datetime) -> datetime | None:
    """Return until when the row of a message is kept: some days after its time; None for ever."""
    days = settings.outbox_sent_days
    if days is None:
        return None
    try:
        due = datetime.fromisoformat(parcel.message.headers.get("eta") or "")
    except ValueError:
        due = now
    return max(now, due if due.tzinfo else now) + timedelta(days=days)


def forget_ended(aliases: tuple[str, ...], limit: int = BATCH) -> int:
    """Forget rows whose messages are settled, by any number of relays; return how many names were handled.

    Raises:
        StoreUnavailable: Redis cannot be asked; rows are kept longer.
        DatabaseError: a database is away; nothing is lost, call again.
    """
    settings, handled = conf.settings(), 0
    store = RedisEndedRows(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)
    while names := store.take(limit):
        for alias in aliases:
            forget(_rows(alias).filter(name__in=names))
        store.settle(names)
        handled += len(names)
        if len(names) < limit:
            break
    return handled


def prune(aliases: tuple[str, ...]) -> int:
    """Forget rows that were kept as long as ``ORCHESTRATOR["OUTBOX_SENT_DAYS"]`` says; return how many.

    Raises:
        DatabaseError: a database is away; the rest goes next time.
    """
    gone = 0
    for alias in aliases:
        old = _rows(alias).filter(due_at=None, kept_until__lt=timezone.now()).order_by()
        while names := list(old.values_list("pk", flat=True)[:BATCH]):
            gone += forget(_rows(alias).filter(pk__in=names, due_at=None))
    return gone


def _rows(alias: str) -> Any:
    return OutboxMessage.objects.using(alias)
