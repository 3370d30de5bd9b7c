"""Results of runs that went well are kept for a while; failures until somebody acts on them."""

from __future__ import annotations

from datetime import timedelta

from celery import states
from django.utils import timezone
from django_celery_results.models import GroupResult, TaskResult

from orchestrator import conf

#: States that nobody has to act on.
SETTLED = (states.SUCCESS, states.REVOKED, states.IGNORED)
#: Rows deleted by one statement: short transactions let workers write in between.
BATCH = 500


def prune() -> int:
    """Delete results older than ``ORCHESTRATOR["RESULTS_DAYS"]``, in small batches.

    Returns:
        how many rows went.
    Raises:
        DatabaseError: the database is away; the rest goes next time.
    """
    days = conf.settings().results_days
    if days is None:
        return 0
    limit = timezone.now() - timedelta(days=days)
    gone = 0
    for rows in (
        TaskResult.objects.filter(status__in=SETTLED, date_done__lt=limit),
        GroupResult.objects.filter(date_done__lt=limit),
    ):
        while ids := list(rows.values_list("pk", flat=True)[:BATCH]):
            gone += rows.model._default_manager.filter(pk__in=ids).delete()[0]
    return gone
