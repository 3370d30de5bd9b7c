"""What others ask the outbox: to be swept and tidied, how far behind it is, to send again what a broker lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Min
from django.utils import timezone

from orchestrator import conf
from orchestrator.outbox import sent
from orchestrator.outbox.models import OutboxMessage
from orchestrator.outbox.reconciling import Found, Report, reconcile
from orchestrator.outbox.sweep import sweep
from orchestrator.outbox.writer import aliases

#: Rows that are counted; beyond, there are "more than".
COUNT_CAP = 10_000

__all__ = ["Found", "Lag", "Report", "forget_ended", "lag", "prune", "reconcile", "sweep"]


@dataclass(frozen=True, slots=True)
class Lag:
    """How many messages are committed and not sent, counted up to :data:`COUNT_CAP`, and the age of the oldest."""

    waiting: int
    oldest_seconds: float


def lag() -> Lag:
    """Look into every database of the outbox.

    Raises:
        DatabaseError: one cannot be asked.
    """
    waiting, oldest = 0, 0.0
    now = timezone.now()
    for alias in aliases(conf.settings()):
        rows = OutboxMessage.objects.using(alias).filter(due_at__isnull=False).order_by("due_at")
        found: dict[str, Any] = rows[:COUNT_CAP].aggregate(count=Count("pk"), oldest=Min("created_at"))
        waiting += found["count"]
        if found["oldest"] is not None:
            oldest = max(oldest, (now - found["oldest"]).total_seconds())
    return Lag(min(waiting, COUNT_CAP), oldest)


def forget_ended() -> int:
    """Forget rows whose messages are settled; return how many. Errors as for :func:`sent.forget_ended`."""
    return sent.forget_ended(aliases(conf.settings()))


def prune() -> int:
    """Forget rows that were kept for long enough; return how many. Errors as for :func:`sent.prune`."""
    return sent.prune(aliases(conf.settings()))
