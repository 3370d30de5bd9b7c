"""What others ask the outbox: to be swept, and how far behind it is."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils import timezone

from orchestrator import conf
from orchestrator.outbox.models import OutboxMessage
from orchestrator.outbox.sweep import sweep
from orchestrator.outbox.writer import aliases

#: Rows that are counted; beyond, there are "more than".
COUNT_CAP = 10_000

__all__ = ["Lag", "lag", "sweep"]


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
        rows = OutboxMessage.objects.using(alias)
        waiting += rows.order_by()[:COUNT_CAP].count()
        first = rows.order_by("pk").values_list("created_at", flat=True).first()
        if first is not None:
            oldest = max(oldest, (now - first).total_seconds())
    return Lag(min(waiting, COUNT_CAP), oldest)
