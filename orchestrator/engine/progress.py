"""How far the running task has come, for its result row and for Flower."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import get_current_worker_task

logger = logging.getLogger(__name__)

#: Seconds between two reports of one attempt; what comes in between is dropped.
INTERVAL = 0.25
#: The same after a report failed: a store that is down must not slow the task down each time.
INTERVAL_AFTER_FAILURE = 10.0
#: Custom states of Flower come from the event's name: ``task-progress`` shows as PROGRESS.
EVENT, STATE = "task-progress", "PROGRESS"


@dataclass(slots=True)
class _Reports:
    """What one attempt has reported so far."""

    next_at: float = 0.0
    last: tuple[float, float, str] | None = None
    failed: bool = False


def progress(current: float, total: float, message: str = "") -> None:
    """Report that the running task has done ``current`` of ``total``.

    At most four reports a second leave the process; the first and the last
    (``current >= total``) always do. Outside of a task nothing happens, and a store
    or broker that is down costs the report, not the task.

    Args:
        current: units done.
        total: units in all, in the same unit; 0 counts as done.
        message: what is going on, a few words; shown to people, so nothing secret.
    """
    task = get_current_worker_task()
    if task is None:
        return
    request = task.request
    reports: _Reports | None = getattr(request, "orchestrator_reports", None)
    if reports is None:
        reports = request.orchestrator_reports = _Reports()
    now = time.monotonic()
    report = (current, total, message)
    finished = current >= total and not reports.failed
    if report == reports.last or (now < reports.next_at and not finished):
        return
    reports.last = report
    reports.failed = not _send(task, _meta(current, total, message), quiet=reports.failed)
    reports.next_at = time.monotonic() + (INTERVAL_AFTER_FAILURE if reports.failed else INTERVAL)


def _meta(current: float, total: float, message: str) -> dict[str, Any]:
    share = 1.0 if total <= 0 else min(max(current / total, 0.0), 1.0)
    return {"current": current, "total": total, "percent": int(share * 100), "message": message}


def _send(task: Any, meta: dict[str, Any], *, quiet: bool) -> bool:
    """Write one report to the result backend and the event stream; False if either failed."""
    shown = f"{meta['current']:.10g}/{meta['total']:.10g} ({meta['percent']}%) {meta['message']}".rstrip()
    try:
        # `result` is the field that Flower shows beside the state.
        task.send_event(EVENT, retry=False, result=shown, **meta)
        task.update_state(state=STATE, meta=meta)
    except SoftTimeLimitExceeded:
        # Delivered as an exception wherever the task happens to be: it is the task's, not ours.
        raise
    except Exception:
        if not quiet:
            logger.warning("Progress of %s[%s] is not reported.", task.name, task.request.id, exc_info=True)
        return False
    return True
