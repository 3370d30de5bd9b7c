"""Results of runs that went well are kept for a while; failures until somebody acts on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import states
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_results.models import ChordCounter, GroupResult, TaskResult

from orchestrator import conf
from orchestrator.runs.models import Chord
from orchestrator.runs.outgoing import chord_sets

#: States that nobody has to act on.
SETTLED = (states.SUCCESS, states.REVOKED, states.IGNORED)
#: Rows deleted by one statement: short transactions let workers write in between.
BATCH = 500


def prune() -> int:
    """Delete results older than ``ORCHESTRATOR["RESULTS_DAYS"]``, and chords whose results are gone with them.

    Returns:
        how many rows went.
    Raises:
        DatabaseError: the database is away; the rest goes next time.
    """
    days = conf.settings().results_days
    if days is None:
        return 0
    limit = timezone.now() - timedelta(days=days)
    gone = _delete(TaskResult.objects.filter(status__in=SETTLED, date_done__lt=limit))
    gone += _delete(GroupResult.objects.filter(date_done__lt=limit))
    return gone + _prune_chords(limit)


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
