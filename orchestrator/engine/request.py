"""A task message in the process that acknowledges it: settle first, then ack."""

from __future__ import annotations

from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.app.task import Context
from celery.utils import uuid
from celery.worker import state
from celery.worker.request import Request
from celery.worker.state import task_ready

from orchestrator.contracts.message import HEADER, Attempt, Letter
from orchestrator.contracts.outcome import Outcome, Reason, Verdict
from orchestrator.engine import execution, letters, limits, revocation
from orchestrator.engine.connections import ask_again
from orchestrator.engine.holding import hold
from orchestrator.engine.redispatch import ATTEMPT, PARKS, Parked
from orchestrator.engine.settlement import outcome_of, settle, unwrap
from orchestrator.transport import office

#: What Celery does not count among a message's own headers; see ``Context._get_custom_headers``.
_NOT_OWN = frozenset({*vars(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"})


class OrchestratedRequest(Request):  # type: ignore[misc]  # Celery's Request is untyped
    """Settles every end that the pool reports, once, before the message is acknowledged.

    Settling here, and not in the child, covers what a child cannot report (it was
    killed, it timed out) with the same code, and has the exact message at hand.
    """

    #: Set once the outcome is safe; the pool reports a hard time limit twice.
    _settled = False
    _attempt_id = ""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        # Celery asks right after this whether the task was called off.
        revocation.look(self._app)
        hard, soft = self._request_dict.get("timelimit") or (None, None)
        # Celery's class for this task knows no limits of its own: see consumer.update_strategies.
        self.time_limits = limits.effective(
            hard or self._task.time_limit, soft or self._task.soft_time_limit, self._app.inherited_soft_limit
        )
        if execution.holds(self._task, self._request_dict.get(HEADER) or execution.NO_HEADER):
            # What the body's process holds under this id, the one that settles can give back if it dies.
            self._request_dict[ATTEMPT] = self.attempt_id
            # An early acknowledgement leaves nothing that could wait.
            self._request_dict[PARKS] = self._task.acks_late and getattr(message.channel, "parks", False)
        facts = self._request_dict
        if facts.get("headers") is None:
            # Else Celery finds them out again for each run, at several times the cost.
            facts["headers"] = {name: value for name, value in facts.items() if name not in _NOT_OWN}
        if getattr(self._task, "sensitive", ()) and HEADER not in self._request_dict:
            # A producer without our policies sent it: its texts quote the values.
            self._argsrepr, self._kwargsrepr = self._app.reprs(self._task, self._args, self._kwargs)
            self._request_dict.update(argsrepr=self._argsrepr, kwargsrepr=self._kwargsrepr)

    @property
    def attempt_id(self) -> str:
        """Names this delivery's attempt, so that who settles for a dead process knows what it held.

        Without our transport that is the process which made it up.
        """
        if not self._attempt_id:
            named = getattr(self._message.channel, "attempt_of", None)
            self._attempt_id = named(self._message.delivery_tag) if named is not None else uuid()
        return self._attempt_id

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Let the result backend know that a pool's process begins with it."""
        super().on_accepted(pid, time_accepted)
        if self._task.track_started and self._task.acks_late and not self._ignores_result:
            begun = getattr(self._app.backend, "begun", None)
            if begun is not None and office.attended():
                begun(self, self.time_start)

    @property
    def _ignores_result(self) -> bool:
        told = self._request_dict.get("ignore_result")
        return bool(self._task.ignore_result if told is None else told)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """Settle a failed attempt, then let Celery store, ack and report it."""
        ask_again()
        error = unwrap(exc_info.exception)
        if isinstance(error, Parked):
            self._park(error)
            return
        if self._terminal(error) and not self._settle(self._outcome(error, exc_info.traceback)):
            again = partial(self.on_failure, exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
            hold(again, self._message)
            return
        if isinstance(error, MemoryError):
            # Celery would end the whole worker over one task's body.
            exc_info = _as_lost(f"MemoryError: {error}")
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def _park(self, parked: Parked) -> None:
        """Let the message wait in the line of a limit."""
        task_ready(self)
        self._message.channel.park(self._message, parked.args[0])
        self.acknowledged = True
        self.send_event("task-parked")

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Settle a hard time limit; a soft one reaches the task as an exception."""
        if not soft and not state.should_terminate and (not self.task.acks_late or self.task.acks_on_timeout):
            ask_again()
            error = TimeLimitExceeded(timeout)
            if not self._settle(self._outcome(error, "")):
                hold(partial(self.on_timeout, soft, timeout), self._message)
                return
        super().on_timeout(soft, timeout)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if expired and getattr(self.task, "bury_expired", False):
            outcome = Outcome(
                Verdict.EXPIRED, Reason.EXPIRED, "Expired", f"expired at {self.expires.isoformat()} before it started"
            )
            if not self._settle(outcome):
                # It must not run meanwhile.
                self._already_revoked = True
                hold(partial(self._announce_revoked, reason, terminated, signum, expired), self._message)
                return
        else:
            # Nothing is buried, but what the run holds is given back.
            self._settle(Outcome(Verdict.EXPIRED if expired else Verdict.REVOKED))
        super()._announce_revoked(reason, terminated, signum, expired)

    def _terminal(self, error: BaseException) -> bool:
        """Whether nothing more will happen to this message by itself."""
        task = self.task
        if self._already_cancelled or self._already_revoked:
            return False
        if isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            if task.acks_late and task.reject_on_worker_lost:
                return False
            retries_left = task.max_retries is None or self._retries < task.max_retries
            if task.retry_on_worker_lost and retries_left:
                return False
            return not self._success_was_stored()
        return not (isinstance(error, TimeLimitExceeded) and task.acks_late and not task.acks_on_timeout)

    @property
    def _retries(self) -> int:
        return self._request_dict.get("retries") or 0

    def _outcome(self, error: BaseException, traceback: Any) -> Outcome:
        history = (self._request_dict.get(HEADER) or {}).get("history") or [{}]
        return outcome_of(error, str(traceback or ""), str(history[-1].get("error", "")))

    def _settle(self, outcome: Outcome) -> bool:
        """Record the outcome, once. False: it is not safe, the message must not be acknowledged."""
        if self._settled:
            return True
        attempt = Attempt(
            attempt_id=self.attempt_id,
            task=self.task,
            task_id=self.id,
            args=self._args,
            kwargs=self._kwargs,
            retries=self._retries,
            header=self._request_dict.get(HEADER) or {},
            letter=self._letter,
            started_at=self.time_start,
        )
        self._settled = settle(self._app, attempt, outcome)
        return self._settled

    def _letter(self, outcome: Outcome) -> Letter:
        return letters.build(
            self._app,
            self._message,
            outcome,
            attempt_id=self.attempt_id,
            worker=self._hostname,
            task=self.task,
            arguments=(self._args, self._kwargs),
            facts=self._request_dict,
        )


def _as_lost(text: str) -> Any:
    try:
        raise WorkerLostError(text)
    except WorkerLostError:
        return ExceptionInfo()
