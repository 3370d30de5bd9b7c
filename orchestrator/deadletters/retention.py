"""Deleting dead letters whose time is over, as two settings say, and never otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from django.db import router, transaction
from django.db.models import QuerySet
from django.utils import timezone

from orchestrator import conf
from orchestrator.audit.services import record
from orchestrator.deadletters.models import DeadLetter, State

#: Rows deleted by one statement, so that no lock is held for long.
BATCH = 500


def prune() -> int:
    """Delete closed letters after ``CLOSED_LETTERS_DAYS``, open ones after ``OPEN_LETTERS_DAYS``.

    Returns:
        how many were deleted.
    """
    settings = conf.settings()
    now = timezone.now()
    deleted = 0
    if settings.closed_letters_days is not None:
        moment = now - timedelta(days=settings.closed_letters_days)
        closed = DeadLetter.objects.filter(state__in=(State.REDRIVEN, State.DISCARDED), closed_at__lt=moment)
        deleted += _delete(closed, "CLOSED_LETTERS_DAYS", settings.closed_letters_days)
    if settings.open_letters_days is not None:
        moment = now - timedelta(days=settings.open_letters_days)
        opened = DeadLetter.objects.filter(state=State.OPEN, died_at__lt=moment)
        deleted += _delete(opened, "OPEN_LETTERS_DAYS", settings.open_letters_days)
    return deleted


def open_among(task_ids: Sequence[str]) -> set[str]:
    """Return which of some tasks have a dead letter that somebody still has to act on."""
    letters = DeadLetter.objects.filter(task_id__in=task_ids, state__in=(State.OPEN, State.REDRIVING))
    return set(letters.order_by().values_list("task_id", flat=True))


def buried_among(task_ids: Sequence[str]) -> set[str]:
    """Return which of some tasks have a dead letter, whatever became of it."""
    return set(DeadLetter.objects.filter(task_id__in=task_ids).order_by().values_list("task_id", flat=True))


def _delete(rows: QuerySet[DeadLetter], setting: str, days: int) -> int:
    total = 0
    while True:
        ids = list(rows.order_by("pk").values_list("pk", flat=True)[:BATCH])
        if not ids:
            return total
        with transaction.atomic(using=router.db_for_write(DeadLetter)):
            # The conditions again: a letter may have been redriven since it was listed.
            deleted = rows.filter(pk__in=ids).delete()[0]
            if deleted:
                record("deadletter.prune", actor="relay", setting=setting, days=days, count=deleted)
        total += deleted
