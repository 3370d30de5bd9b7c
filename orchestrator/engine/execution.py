"""Running a task's body through the policies, in the process that runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from billiard.process import current_process
from celery.app.task import get_actual_ignore_result
from celery.exceptions import Ignore

from orchestrator.contracts.message import HEADER, Attempt
from orchestrator.contracts.outcome import Defer, Park, PermanentError, Skip
from orchestrator.engine import redispatch


class ExitRequested(Exception):
    """A body wanted to end the process; on solo and threads that would be the whole worker."""


NO_HEADER: Mapping[str, Any] = {}


def execute(task: Any, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one attempt and return the body's value.

    Raises:
        Retry, Ignore, Reject: Celery's control flow.
        BaseException: whatever the body raises and no retry answers.
    """
    header = request.get(HEADER) or NO_HEADER
    chain = _chain(task, header)
    # What is published while this is set is published by the body; before and after, by the worker for itself.
    request.in_body = True
    request.orchestrator_started = time.time()
    try:
        if chain is None:
            _unburden(task)
            return task.body(*args, **kwargs)
        attempt = Attempt(
            attempt_id=request.get(redispatch.ATTEMPT) or "",
            task=task,
            task_id=request.id,
            args=args,
            kwargs=kwargs,
            retries=request.retries or 0,
            header=header,
            priority=(request.delivery_info or {}).get("priority") or 0,
            parks=bool(request.get(redispatch.PARKS)),
            parts=_parts(task, request),
        )
        value = chain(attempt)
        request.orchestrator_verdict = attempt.verdict
        return value
    except Park as park:
        raise redispatch.Parked(park.waiting) from park
    except Defer as deferral:
        raise redispatch.defer(task, request, deferral.seconds) from deferral
    except Skip as skip:
        raise Ignore(str(skip)) from skip
    except PermanentError:
        raise
    except SystemExit as error:
        if type(error) is not SystemExit or current_process().name != "MainProcess":
            # A pool child ends and its parent settles the attempt; Celery's own
            # subclasses end a worker on purpose.
            raise
        raise ExitRequested(f"The task called sys.exit({error.code!r}) in the worker's own process.") from error
    except Exception as error:
        retries = task.retries
        made = request.retries or 0
        if retries is None or made >= retries.limit or not isinstance(error, retries.on):
            raise
        raise task.retry(exc=error, countdown=retries.delay(made + 1)) from error
    finally:
        request.in_body = False


def _chain(task: Any, header: Mapping[str, Any]) -> Callable[[Attempt], Any] | None:
    """Return the composed policies for this task and kind of message, made once each."""
    chains: dict[tuple[str, ...], Callable[[Attempt], Any] | None] | None = task.__dict__.get("_chains")
    if chains is None:
        chains = task._chains = {}
    key = tuple(header)
    try:
        return chains[key]
    except KeyError:
        chains[key] = task.app.stack.executor(task, header, _run)
        return chains[key]


def holds(task: Any, header: Mapping[str, Any]) -> bool:
    """Whether something will be held under the id of an attempt at this task; asked once for each kind of message."""
    known: dict[tuple[str, ...], bool] | None = task.__dict__.get("_holds")
    if known is None:
        known = task._holds = {}
    key = tuple(header)
    found = known.get(key)
    if found is None:
        found = known[key] = task.app.stack.holds(task, header)
    return found


def _run(attempt: Attempt) -> Any:
    if attempt.newer is not None:
        redispatch.adopt(attempt)
    _unburden(attempt.task)
    return attempt.task.body(*attempt.args, **attempt.kwargs)


def _unburden(task: Any) -> None:
    """Let no task wait for another one's body to give back what it held."""
    partings = task.app.partings
    if partings is not None and partings.urgent:
        partings.flush()


def _parts(task: Any, request: Any) -> bool:
    """Whether nobody hears of a task's end, by its result or acknowledgement, before what it leaves is given back."""
    partings = task.app.partings
    if partings is None or not task.acks_late or request.is_eager or request.called_directly or not partings.taking:
        return False
    if get_actual_ignore_result(task, request):
        return True
    gathers = getattr(task.backend, "gathers", None)
    return gathers is not None and bool(gathers(request))
