"""Deleting records whose time is over; their keys may then take effect again."""

from __future__ import annotations

from django.utils import timezone

from orchestrator.idempotency.models import IdempotencyRecord

#: Rows deleted by one statement, so that no lock is held for long.
BATCH = 500


def prune() -> int:
    """Delete records past the ``ttl`` that their task declared.

    Returns:
        how many were deleted.
    """
    deleted = 0
    due = IdempotencyRecord.objects.filter(expires_at__lte=timezone.now())
    while ids := list(due.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        deleted += due.filter(pk__in=ids).delete()[0]
    return deleted
