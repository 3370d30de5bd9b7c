"""What a relay does for the outbox: send what is left, by any number of relays.

A relay takes rows by a claim that runs out, so those of one that died go to another.
Rows locked by somebody are skipped where the database can; elsewhere the claim is one
UPDATE, which is first in its transaction and therefore waits for its turn.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.db import connections, transaction
from django.db.models import F
from django.utils import timezone

from orchestrator import conf
from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.outbox import sending, turns
from orchestrator.outbox import sent as keeping
from orchestrator.outbox.models import OutboxMessage
from orchestrator.outbox.sending import ERROR_LENGTH
from orchestrator.outbox.writer import aliases

logger = logging.getLogger("orchestrator.outbox")

#: Seconds that a relay has for the rows it took; after that another may send them.
LEASE = 30.0
#: Seconds of a lease in which new sendings are begun; the rest is for the last one.
WORKING = 15.0
#: Seconds for which one call goes on; a relay has other duties as well.
BUDGET = 1.0
#: Seconds until a row is tried again that cannot be sent while others can: the first, and the longest.
BACKOFF = (1.0, 600.0)


def sweep(limit: int = 200) -> int:
    """Send due rows of each database, ``limit`` at a time, for a second or until none is left.

    Returns:
        how many were sent.
    Raises:
        BrokerUnavailable: the broker is away; nothing is lost, call again.
        DatabaseError: a database is away; nothing is lost, call again.
    """
    return sum(_sweep(alias, limit) for alias in aliases(conf.settings()))


def _sweep(alias: str, limit: int) -> int:
    sent, end = 0, time.monotonic() + BUDGET
    while done := _batch(alias, limit):
        sent += done
        if time.monotonic() > end:
            break
    return sent


def _batch(alias: str, limit: int) -> int:
    rows = _take(alias, limit)
    if not rows:
        return 0
    done: list[int] = []
    dropped: list[int] = []
    #: Keys of which a row could not be sent: what is behind it stays.
    held = set[str]()
    begun = time.monotonic()
    try:
        for row in turns.in_turn(rows, alias):
            if time.monotonic() - begun > WORKING:
                break
            if row.ordering_key in held:
                continue
            sent = _send(row, alias)
            if sent is not None:
                (done if sent else dropped).append(row.pk)
            elif row.ordering_key:
                held.add(row.ordering_key)
    finally:
        if done:
            keeping.done(_all(alias).filter(pk__in=done))
        if dropped:
            keeping.forget(_all(alias).filter(pk__in=dropped))
        # Whatever was not come to is free again at once.
        _all(alias).filter(claim=rows[0].claim).update(claim="", due_at=timezone.now())
    return len(done) + len(dropped)


def _send(row: OutboxMessage, alias: str) -> bool | None:
    """Return whether a row was sent or is a duplicate; None for one that cannot be sent."""
    try:
        return sending.send(row)
    except BrokerUnavailable as error:
        _all(alias).filter(pk=row.pk).update(error=str(error)[:ERROR_LENGTH])
        raise
    except Exception as error:
        # This one's own fault. It stays, visibly, and the others go on.
        pause = min(BACKOFF[0] * 2.0 ** min(row.attempts, 30), BACKOFF[1])
        text = f"{type(error).__name__}: {error}"
        logger.error("Message %s cannot be sent, next try in %.0f s: %s", row, pause, text)
        later = timezone.now() + timedelta(seconds=pause)
        _all(alias).filter(pk=row.pk, claim=row.claim).update(claim="", due_at=later, error=text[:ERROR_LENGTH])
        return None


def _take(alias: str, limit: int) -> Sequence[OutboxMessage]:
    """Claim the oldest due rows, in order."""
    now = timezone.now()
    due = turns.due(alias, now).order_by("pk")
    if not due.exists():
        # A look costs no lock; on SQLite a claim would take the one there is.
        return ()
    claim = secrets.token_hex(12)
    changes: dict[str, Any] = {"claim": claim, "due_at": now + timedelta(seconds=LEASE), "attempts": F("attempts") + 1}
    with transaction.atomic(using=alias):
        if connections[alias].features.has_select_for_update_skip_locked:
            keys = list(due.select_for_update(skip_locked=True).values_list("pk", flat=True)[:limit])
            _all(alias).filter(pk__in=keys).update(**changes)
        else:
            _all(alias).filter(pk__in=due.values("pk")[:limit], due_at__lte=now).update(**changes)
    return list(_all(alias).filter(claim=claim).order_by("pk"))


def _all(alias: str) -> Any:
    return OutboxMessage.objects.using(alias)
