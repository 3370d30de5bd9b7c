"""Reports of prefork's processes travel with their answers to the main process, which acknowledges."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.app.trace import fast_trace_task, trace_task_ret

from orchestrator.contracts import reports
from orchestrator.transport import office


def traced(target: Callable[..., Any], *args: Any) -> tuple[Any, list[reports.Report]]:
    """Run a task in a pool process; return Celery's answer and what was reported meanwhile."""
    with reports.collecting() as found:
        answer = target(*args)
    return answer, found


def route(app: Any, pool: Any) -> None:
    """Let reports of a pool's processes come with their answers where this process acknowledges what it holds."""
    if not getattr(pool, "uses_semaphore", False) or not hasattr(app.backend, "take"):
        return  # only prefork has processes; and somebody else's backend writes for itself
    plain = pool.apply_async

    def apply_async(target: Any, args: Any = (), kwargs: Any = None, **options: Any) -> Any:
        if target not in (fast_trace_task, trace_task_ret) or not office.attended():
            return plain(target, args, kwargs, **options)
        options["callback"] = partial(_answered, app, options["correlation_id"], options["callback"])
        return plain(traced, (target, *args), kwargs, **options)

    pool.apply_async = apply_async


def _answered(
    app: Any, task_id: str, callback: Callable[..., Any], answer: tuple[Any, list[reports.Report]], **options: Any
) -> Any:
    value, found = answer
    app.backend.take(found, task_id)
    return callback(value, **options)
