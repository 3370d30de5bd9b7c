"""Looking at the outbox: rows that wait, apart from those that were sent and are kept until they have ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from orchestrator.outbox.models import OutboxMessage


def waiting(**which: Any) -> Any:
    """Return the rows whose messages were not sent."""
    return OutboxMessage.objects.filter(due_at__isnull=False, **which)


def due_now(**which: Any) -> None:
    """Let relays have what waits, whoever has it now."""
    waiting(**which).update(due_at=timezone.now() - timedelta(seconds=1), claim="")
