"""Out of the outbox: sent right after the commit by the process that committed.

What fails here, or is cut off, stays a row; relays send those (:mod:`orchestrator.outbox.sweep`).
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from django.db import DatabaseError, connections, transaction
from django.db.models import F
from django.utils import timezone

from orchestrator.celery import get_app
from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.outbox import sent, turns
from orchestrator.outbox.models import OutboxMessage

logger = logging.getLogger("orchestrator.outbox")

#: Seconds for which this process leaves everything to the relays once the broker did not answer: each further
#: try would hold its caller for as long as a publish may take.
PAUSE = 5.0
#: Characters kept of an error's text.
ERROR_LENGTH = 500


class _Rest:
    """Until when this process leaves everything to the relays."""

    until = 0.0


def rest(seconds: float = PAUSE) -> None:
    """Note that the broker did not answer; 0 seconds forgets it."""
    _Rest.until = time.monotonic() + seconds


def resting() -> bool:
    """Whether this process leaves everything to the relays for a while."""
    return time.monotonic() < _Rest.until


def mark(row: OutboxMessage) -> dict[str, Any]:
    """Return what tells one copy of a row's message from the others, and its worker whether the row is kept."""
    made: dict[str, Any] = {"row": row.name, "nonce": secrets.token_hex(6)}
    return {**made, "kept": True} if sent.kept() else made


def send(row: OutboxMessage) -> bool:
    """Send one row's message, once more if need be; its copies start once.

    Returns:
        False if it was not sent: a duplicate of another message by now, or a publish without an answer came through.

    Raises:
        BrokerUnavailable: the broker did not take it, as far as is known.
        PayloadUnreadable: there is nothing that could be sent.
    """
    return get_app().send_kept(row.parcel, mark(row))


class _Together:
    """Hooks of one transaction that commit or go together; what they sent is noted in one statement."""

    def __init__(self) -> None:
        self.open = 0
        self.sent: list[int] = []
        #: Of messages that need no sending any more.
        self.dropped: list[int] = []
        #: Set by the first that failed: the rest stay, so that their order does.
        self.failed = ""


class SendAtCommit:
    """What Django calls after the commit. Never fails its caller, whose transaction stands."""

    # Django names a hook by this when it reports one.
    __qualname__ = "SendAtCommit"

    def __init__(self, row: OutboxMessage, alias: str, together: _Together) -> None:
        self.row = row
        self.alias = alias
        self.together = together
        self.ran = False
        together.open += 1

    def __call__(self) -> None:
        """Send, and note it with the last of its transaction."""
        if self.ran:
            return
        self.ran = True
        together = self.together
        together.open -= 1
        try:
            self._send()
            # Under a test's transaction the other hooks may never come.
            if not together.open or connections[self.alias].in_atomic_block:
                gone, together.sent = together.sent, []
                if gone:
                    sent.done(_rows(self.alias).filter(pk__in=gone))
                if together.dropped:
                    sent.forget(_rows(self.alias).filter(pk__in=together.dropped))
        except SoftTimeLimitExceeded:
            raise
        except Exception:
            # The transaction stands, and so does the row: a relay sends it.
            logger.exception("Message %s stays in the outbox", self.row)

    def _send(self) -> None:
        if self.together.failed:
            self._leave(self.together.failed)
            return
        if resting():
            self._leave("the broker did not answer a moment ago")
            return
        if turns.behind(self.row, self.alias, self.together.sent):
            self._leave(turns.WAITS)
            return
        try:
            (self.together.sent if send(self.row) else self.together.dropped).append(self.row.pk)
        except BrokerUnavailable as error:
            rest()
            logger.warning("The broker did not take %s; it waits in the outbox for a relay: %s", self.row, error)
            self._leave(str(error))

    def _leave(self, error: str) -> None:
        """Let a relay have it now."""
        self.together.failed = error
        changes: dict[str, Any] = {"due_at": timezone.now(), "error": self.together.failed[:ERROR_LENGTH]}
        try:
            _rows(self.alias).filter(pk=self.row.pk, claim="", due_at__isnull=False).update(
                **changes, attempts=F("attempts") + 1
            )
        except DatabaseError as trouble:
            logger.warning("Message %s waits in the outbox until its grace is over: %s", self.row, trouble)


def at_commit(row: OutboxMessage, alias: str) -> None:
    """Have a row sent when the open transaction of ``alias`` commits, or now if there is none."""
    transaction.on_commit(SendAtCommit(row, alias, _together(alias)), using=alias)


def _together(alias: str) -> _Together:
    """Return the company of the next hook: that of the last one, if no rollback can part them."""
    connection = connections[alias]
    if connection.in_atomic_block and connection.run_on_commit:
        savepoints, last = connection.run_on_commit[-1][:2]
        if isinstance(last, SendAtCommit) and not last.ran and savepoints == set(connection.savepoint_ids):
            return last.together
    return _Together()


def _rows(alias: str) -> Any:
    return OutboxMessage.objects.using(alias)
