"""Results of runs that went well are kept for a while; failures until somebody acted on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from celery import states
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_results.models import ChordCounter, GroupResult, TaskResult

from orchestrator import conf
from orchestrator.runs.models import Attempt, Chord
from orchestrator.runs.outgoing import chord_sets

#: States that nobody has to act on.
SETTLED = (states.SUCCESS, states.REVOKED, states.IGNORED)
#: Rows deleted by one statement: short transactions let workers write in between.
BATCH = 500

#: Tells which of some task ids wait for somebody.
Unhandled = Callable[[Sequence[str]], Collection[str]]


def prune(unhandled: Unhandled | None = None) -> int:
    """Delete what ``ORCHESTRATOR["RESULTS_DAYS"]`` and ``["RESULTS_PER_TASK"]`` say, in small batches.

    Chords, groups and the history of attempts go by the days as well.

    Args:
        unhandled: tells which failed tasks somebody still has to act on; without it failures stay.
    Returns:
        how many rows went.
    Raises:
        DatabaseError: the database is away; the rest goes next time.
    """
    settings = conf.settings()
    gone = 0
    if settings.results_days is not None:
        limit = timezone.now() - timedelta(days=settings.results_days)
        gone += _delete(TaskResult.objects.filter(status__in=SETTLED, date_done__lt=limit))
        gone += _delete(GroupResult.objects.filter(date_done__lt=limit))
        gone += _delete(Attempt.objects.filter(ended_at__lt=limit))
        gone += _prune_chords(limit)
        if unhandled is not None:
            gone += _prune_failures(limit, unhandled)
    if settings.results_per_task is not None:
        gone += _prune_surplus(settings.results_per_task)
    return gone


def _prune_failures(limit: Any, unhandled: Unhandled) -> int:
    """Delete old failures that somebody has acted on."""
    gone, last = 0, 0
    old = TaskResult.objects.filter(status=states.FAILURE, date_done__lt=limit).order_by("pk")
    while rows := list(old.filter(pk__gt=last).values_list("pk", "task_id")[:BATCH]):
        last = rows[-1][0]
        kept = set(unhandled([task_id for _, task_id in rows]))
        gone += TaskResult.objects.filter(pk__in=[pk for pk, task_id in rows if task_id not in kept]).delete()[0]
    return gone


def _prune_surplus(kept: int) -> int:
    """Delete successes of each task but for the newest."""
    gone = 0
    for name in _names():
        rows = TaskResult.objects.filter(task_name=name, status=states.SUCCESS).order_by("-pk")
        newest = rows.values_list("pk", flat=True)[kept - 1 : kept].first()
        if newest is not None:
            gone += _delete(rows.filter(pk__lt=newest))
    return gone


def _names() -> list[str]:
    """Return the task names in the table, each found by one look into its index."""
    names: list[str] = []
    rows = TaskResult.objects.exclude(task_name=None).order_by("task_name").values_list("task_name", flat=True)
    while (name := (rows.filter(task_name__gt=names[-1]) if names else rows).first()) is not None:
        names.append(name)
    return names


def _prune_chords(limit: Any) -> int:
    """Forget chords that failed, or whose members never ended: nothing can complete them any more."""
    known = Chord.objects.values("group_id")
    # Rows of earlier releases have no date: they grow old from now on.
    strange = ChordCounter.objects.exclude(group_id__in=known).values_list("group_id", flat=True)[:BATCH]
    Chord.objects.bulk_create([Chord(group_id=group_id) for group_id in strange], ignore_conflicts=True)
    gone = 0
    old = Chord.objects.filter(created_at__lt=limit).order_by("pk")
    while groups := list(old.values_list("group_id", flat=True)[:BATCH]):
        ChordCounter.objects.filter(group_id__in=groups).delete()
        gone += Chord.objects.filter(group_id__in=groups).delete()[0]
        for group_id in groups:
            chord_sets().forget(group_id)
    return gone


def _delete(rows: QuerySet[Any]) -> int:
    gone = 0
    while ids := list(rows.order_by().values_list("pk", flat=True)[:BATCH]):
        gone += rows.model._default_manager.filter(pk__in=ids).delete()[0]
    return gone
