"""What others ask about runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery import states

from orchestrator.contracts.outcome import Verdict
from orchestrator.runs import reading
from orchestrator.runs.models import Attempt
from orchestrator.runs.outgoing import store

#: Ends of attempts after which nothing happens by itself; to skip one may be to skip a copy of another.
_ENDS = tuple(verdict.value for verdict in Verdict if verdict.terminal and verdict is not Verdict.SKIPPED)


@dataclass(frozen=True, slots=True)
class Lag:
    """How many results wait in Redis to become rows, and the age of the one that is next."""

    waiting: int
    oldest_seconds: float


def lag() -> Lag:
    """Look into Redis.

    Raises:
        StoreUnavailable: it cannot be asked.
    """
    oldest = store().oldest()
    return Lag(store().size(), 0.0 if oldest is None else max(0.0, time.time() - oldest))


def ended_among(task_ids: Sequence[str]) -> set[str]:
    """Return those of some tasks whose result, or last attempt, tells that they have ended.

    Raises:
        DatabaseError: the database cannot be asked.
    """
    found = {one for one, state in reading.states(store(), task_ids).items() if state in states.READY_STATES}
    ends = Attempt.objects.filter(task_id__in=task_ids, verdict__in=_ENDS)
    # Without a reason a rejected message went back to its queue.
    ends = ends.exclude(verdict=Verdict.REJECTED.value, reason="")
    return found | set(ends.order_by().values_list("task_id", flat=True))
