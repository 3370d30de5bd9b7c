"""What is known of tasks, wherever it lies: in Redis, or in the database."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from django.db import router
from django_celery_results.models import TaskResult

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.progress import Kind, Record, is_news
from orchestrator.runs.rows import STANDING, as_row, standing
from orchestrator.stores.redis.results import ResultStore

logger = logging.getLogger("orchestrator.runs")

#: Task ids asked for by one query.
CHUNK = 5000


def latest(store: ResultStore, task_ids: Sequence[str], columns: Sequence[str] = ()) -> Mapping[str, TaskResult]:
    """Return the latest row of each task of which anything is known, by id; one call and one query for 5,000.

    Args:
        columns: those that are wanted of rows; all if empty.

    Redis first: what a relay moves meanwhile is then found in the database. *Fails: open, without Redis
    the database alone answers.*

    Raises:
        DatabaseError: the database cannot be asked, and Redis does not know all.
    """
    waiting: Mapping[str, Record] = {}
    try:
        waiting = store.read(task_ids)
    except StoreUnavailable as error:
        logger.warning("States that wait in Redis are not seen: %s", error)
    found: dict[str, TaskResult] = {}
    asked = []
    for task_id in task_ids:
        record = waiting.get(task_id)
        if record is not None and record.standing[0] is Kind.SUCCEEDED:
            found[task_id] = as_row(record)
        else:
            asked.append(task_id)
    rows = TaskResult._default_manager.using(router.db_for_read(TaskResult))
    for start in range(0, len(asked), CHUNK):
        some = rows.filter(task_id__in=asked[start : start + CHUNK]).order_by()
        for row in some.only(*columns) if columns else some:
            found[row.task_id] = row
    for task_id in asked:
        record = waiting.get(task_id)
        if record is not None and (task_id not in found or is_news(standing(found[task_id]), record.standing)):
            found[task_id] = as_row(record)
    return found


def states(store: ResultStore, task_ids: Sequence[str]) -> Mapping[str, str]:
    """Return the state of each task of which anything is known, by id; as :func:`latest`, without results."""
    return {task_id: row.status for task_id, row in latest(store, task_ids, columns=STANDING).items()}
