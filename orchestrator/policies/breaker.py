"""A far side that fails is left alone for a while; its tasks wait without burning their retries."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import uuid4

from orchestrator.contracts import events
from orchestrator.contracts.breaker import Breaker, Breakers, End, State
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Defer, Outcome, PermanentError, Reason, Skip, Verdict
from orchestrator.contracts.policy import Parts, Policy

logger = logging.getLogger("orchestrator.breaker")

#: Seconds over which those that waited are spread, so that they do not all come at once.
SPREAD = 5.0


class Breaking(Policy):
    """Asks a task's breaker before the body, and tells it how the attempt ended.

    Laws: :class:`orchestrator.Breaker`. *Fails: open. While the store is away tasks run and nothing is counted.*
    """

    holding = True

    def __init__(self, breakers: Breakers, lease: float, control_flow: tuple[type[BaseException], ...] = ()) -> None:
        self.breakers = breakers
        self.lease = lease
        self._control_flow = (Defer, Skip, *control_flow)

    @classmethod
    def build(cls, parts: Parts) -> Breaking:
        """Take the breakers."""
        return cls(parts.breakers, parts.lease_seconds, parts.control_flow)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only tasks that declare a breaker."""
        return getattr(task, "breaker", None) is not None

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body unless the breaker is open.

        Raises:
            Defer: it is open, or another attempt is the probe.
        """
        breaker: Breaker | None = getattr(attempt.task, "breaker", None)
        if breaker is None:
            return proceed(attempt)
        attempt_id = attempt.attempt_id or uuid4().hex
        try:
            entry = self.breakers.enter(breaker, attempt_id, self.lease)
        except StoreUnavailable as error:
            logger.warning("Task %s runs though its breaker cannot be asked: %s", attempt.task_id, error)
            return proceed(attempt)
        if not entry.runs:
            raise Defer(entry.wait + random.uniform(0, min(SPREAD, breaker.spans[1])))  # noqa: S311 - spreads only
        kept: AbstractContextManager[None] = nullcontext()
        if entry.probe:
            logger.info("Task %s is the probe of breaker %r.", attempt.task_id, breaker.name)
            kept = self.breakers.keep(breaker, attempt_id, self.lease)
        try:
            with kept:
                value = proceed(attempt)
        except BaseException as error:
            self._record(breaker, attempt_id, self._end(breaker, error))
            raise
        self._record(breaker, attempt_id, End.GOOD)
        return value

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Count the death of a process as a failure; whoever failed alive has told so itself."""
        breaker: Breaker | None = getattr(attempt.task, "breaker", None)
        killed = outcome.verdict is Verdict.LOST or outcome.reason is Reason.TIME_LIMIT
        if breaker is not None and killed and attempt.attempt_id:
            self._record(breaker, attempt.attempt_id, End.FAILED)

    def _end(self, breaker: Breaker, error: BaseException) -> End:
        if isinstance(error, self._control_flow):
            # A retry that the body asked for carries what made it do so.
            cause = getattr(error, "exc", None)
            return End.FAILED if isinstance(cause, breaker.on) else End.NEITHER
        if isinstance(error, PermanentError):
            return End.GOOD
        if isinstance(error, breaker.on):
            return End.FAILED
        return End.GOOD if isinstance(error, Exception) else End.NEITHER

    def _record(self, breaker: Breaker, attempt_id: str, end: End) -> None:
        try:
            changed = self.breakers.record(breaker, attempt_id, end)
        except StoreUnavailable as error:
            logger.warning("An end is not counted by breaker %r: %s", breaker.name, error)
            return
        if changed is State.OPEN:
            events.emit(events.BreakerOpened(name=breaker.name))
            logger.error("Breaker %r is open for %g s: its tasks wait.", breaker.name, breaker.spans[1])
        elif changed is State.CLOSED:
            events.emit(events.BreakerClosed(name=breaker.name))
            logger.warning("Breaker %r is closed again.", breaker.name)
