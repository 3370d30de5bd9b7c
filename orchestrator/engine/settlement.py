"""How an attempt ended, decided in one place, recorded once before the ack."""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery.exceptions import BackendStoreError, Ignore, InvalidTaskError, MaxRetriesExceededError, Reject, Retry
from celery.utils.serialization import UnpickleableExceptionWrapper
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError

from orchestrator.contracts import events
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Outcome, PermanentError, Reason, Verdict
from orchestrator.engine import letters
from orchestrator.engine.redispatch import Deferred, Parked

logger = logging.getLogger("orchestrator.engine")

#: First match wins. Celery's own classes first; a task's own classes are told by the rest.
_KINDS: tuple[tuple[type[BaseException], Verdict, Reason | None], ...] = (
    (Deferred, Verdict.DEFERRED, None),
    (Parked, Verdict.DEFERRED, None),
    (Retry, Verdict.RETRIED, None),
    (Ignore, Verdict.SKIPPED, None),
    (Reject, Verdict.REJECTED, Reason.REJECTED),
    (Terminated, Verdict.REVOKED, None),
    (TimeLimitExceeded, Verdict.TIMED_OUT, Reason.TIME_LIMIT),
    (SoftTimeLimitExceeded, Verdict.TIMED_OUT, Reason.SOFT_TIME_LIMIT),
    (WorkerLostError, Verdict.LOST, Reason.WORKER_LOST),
    (SystemExit, Verdict.LOST, Reason.WORKER_LOST),
    (KeyboardInterrupt, Verdict.LOST, Reason.WORKER_LOST),
    (PermanentError, Verdict.FAILED, Reason.PERMANENT_ERROR),
    (MaxRetriesExceededError, Verdict.FAILED, Reason.RETRIES_EXHAUSTED),
    (EncodeError, Verdict.FAILED, Reason.RESULT_NOT_STORED),
    (BackendStoreError, Verdict.FAILED, Reason.RESULT_NOT_STORED),
    (ContentDisallowed, Verdict.FAILED, Reason.CONTENT_TYPE),
    (DecodeError, Verdict.FAILED, Reason.UNDECODABLE),
    (InvalidTaskError, Verdict.FAILED, Reason.INVALID_MESSAGE),
)


def unwrap(error: BaseException) -> BaseException:
    """Return the exception that a pool child sent, without its traceback carrier."""
    while isinstance(error, ExceptionWithTraceback):
        error = error.exc
    return error


def outcome_of(error: BaseException, traceback: str, retried_for: str) -> Outcome:
    """Map the way an attempt left the pool to an outcome.

    Args:
        retried_for: error of the attempt before this one, as its history tells; empty on the first.
    """
    error = unwrap(error)
    verdict, reason = Verdict.FAILED, Reason.FAILED
    for kind, kind_verdict, kind_reason in _KINDS:
        if isinstance(error, kind):
            verdict, reason = kind_verdict, kind_reason  # type: ignore[assignment]
            break
    if isinstance(error, Reject) and error.requeue:
        reason = None  # type: ignore[assignment]
    name, text = _described(error)
    if reason is Reason.FAILED and retried_for.startswith(f"{name}:"):
        # What was worth a retry before would have been retried now, had there been one left.
        reason = Reason.RETRIES_EXHAUSTED
    return Outcome(verdict=verdict, reason=reason, error_type=name, error_message=text, traceback=traceback)


def _described(error: BaseException) -> tuple[str, str]:
    if isinstance(error, UnpickleableExceptionWrapper):
        return error.exc_cls_name, ", ".join(str(argument) for argument in error.exc_args)
    if isinstance(error, Reject):
        return "Reject", str(error.reason or "")
    if isinstance(error, SystemExit):
        return "SystemExit", f"the task ended its own process with exit code {error.code}"
    try:
        text = str(error)
    except Exception as broken:  # an error whose own text fails must still be buried
        text = f"(its text cannot be told: {type(broken).__name__})"
    return type(error).__name__, text


def settle(app: Any, attempt: Attempt, outcome: Outcome) -> bool:
    """Tell the policies an outcome.

    Returns:
        False if it could not be recorded: the message must not be acknowledged.
    """
    build = attempt.letter
    if build is not None:
        attempt.letter = lambda told: letters.adopted(app, attempt, build(told))
    try:
        app.stack.settle(attempt, outcome)
    except StoreUnavailable as error:
        name = getattr(attempt.task, "name", attempt.task)
        logger.error("Task %s[%s] stays unacknowledged until its letter is safe: %s", name, attempt.task_id, error)
        events.emit(
            events.LetterRefused(
                task=str(name),
                task_id=attempt.task_id,
                attempt_id=attempt.attempt_id,
                reason=outcome.reason.value if outcome.reason else "",
            )
        )
        return False
    return True
