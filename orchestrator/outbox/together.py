"""Rows that were written together are sent together: in few calls, right after the commit.

They are claimed from the start by whoever wrote them, until their grace is over. What
fails, or is cut off, stays; relays send it.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone

from orchestrator.celery import get_app
from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.outbox import sending, sent, turns
from orchestrator.outbox.models import OutboxMessage

logger = logging.getLogger("orchestrator.outbox")


def claim() -> str:
    """Return a name under which rows are held by whoever writes them."""
    return secrets.token_hex(12)


def send(rows: list[OutboxMessage]) -> None:
    """Send rows' messages in as few calls as can be; their copies start once.

    Raises:
        BrokerUnavailable: the broker did not take them all, as far as is known.
        PayloadUnreadable: one holds nothing that could be sent.
    """
    get_app().send_kept_many([(row.parcel, sending.mark(row)) for row in rows])


class SendTogetherAtCommit:
    """What Django calls after the commit. Never fails its caller, whose transaction stands."""

    # Django names a hook by this when it reports one.
    __qualname__ = "SendTogetherAtCommit"

    def __init__(self, claim: str, alias: str) -> None:
        self.claim = claim
        self.alias = alias

    def __call__(self) -> None:
        """Send the rows and note it, or leave them to a relay."""
        try:
            if sending.resting():
                self._leave("the broker did not answer a moment ago")
                return
            rows = list(self._rows().order_by("pk"))
            if len(turns.in_turn(rows, self.alias)) < len(rows):
                self._leave(turns.WAITS)
                return
            send(rows)
            sent.done(self._rows())
        except SoftTimeLimitExceeded:
            raise
        except BrokerUnavailable as error:
            sending.rest()
            logger.warning("The broker did not take messages that wait in the outbox for a relay now: %s", error)
            self._leave(str(error))
        except Exception as error:
            # The transaction stands, and so do the rows.
            logger.exception("Messages written together stay in the outbox")
            self._leave(f"{type(error).__name__}: {error}")

    def _leave(self, error: str) -> None:
        changes: dict[str, Any] = {"claim": "", "due_at": timezone.now(), "error": error[: sending.ERROR_LENGTH]}
        try:
            self._rows().update(**changes, attempts=F("attempts") + 1)
        except DatabaseError as trouble:
            logger.warning("Messages wait in the outbox until their grace is over: %s", trouble)

    def _rows(self) -> Any:
        return OutboxMessage.objects.using(self.alias).filter(claim=self.claim)


def at_commit(claim: str, alias: str) -> None:
    """Have rows sent when the open transaction of ``alias`` commits, or now if there is none."""
    transaction.on_commit(SendTogetherAtCommit(claim, alias), using=alias)
