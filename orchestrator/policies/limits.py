"""A task starts when every limit that it declares lets it; until then its message waits outside of workers."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from uuid import uuid4

from orchestrator.contracts.errors import InvalidOption, StoreUnavailable
from orchestrator.contracts.fencing import fenced, fencing
from orchestrator.contracts.keys import bound
from orchestrator.contracts.limiting import Asking, Charge, Granted, Limited, LimitStore, Waiting
from orchestrator.contracts.message import Attempt, Publication
from orchestrator.contracts.outcome import Defer, Outcome, Park, RateLimited, Verdict
from orchestrator.contracts.policy import Parts, Policy

logger = logging.getLogger("orchestrator.limits")

#: Seconds that a message waits in its worker for a turn that is so near; longer ones wait outside.
PATIENCE = 0.1
#: Seconds until a message is tried again while the limits cannot be asked.
WHILE_AWAY = 2.0
#: Seconds until a deferred message asks again for a slot: at first, and at most.
LOOK_AGAIN = (0.25, 10.0)

#: Ends that a process which runs no task code settles: the one that held the slots is gone.
_DIED = frozenset({Verdict.LOST, Verdict.TIMED_OUT, Verdict.REVOKED})


class Limits(Policy):
    """Takes what all limits of a task ask for, or nothing, before its body runs; gives slots back after it.

    Limited is not failed: no retry is counted and no worker held. *Fails: as ``LIMITS_FAIL`` says. Closed, the
    default: while the counts are away messages are deferred; open: they run without their limits.*
    """

    holding = True

    def __init__(self, limits: LimitStore, lease: float, fail_open: bool) -> None:
        self.limits = limits
        self.lease = lease
        self.fail_open = fail_open

    @classmethod
    def build(cls, parts: Parts) -> Limits:
        """Take the store."""
        return cls(parts.limits, parts.lease_seconds, parts.limits_open)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only tasks that declare a limit."""
        return bool(getattr(task, "limits", ()))

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Refuse a call whose limits could not be told later.

        Raises:
            InvalidOption: a key, weight or tier cannot be made out of the arguments.
        """
        if getattr(publication.task, "limits", ()) and not publication.republication:
            priority = publication.options.get("priority")
            self._charges(publication.task, publication.args, publication.kwargs, priority or 0)
        return proceed(publication)

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body in its turn.

        Raises:
            Defer: it is not its turn, or the limits cannot be asked.
            InvalidOption: a key, weight or tier cannot be made out of the arguments.
        """
        charges = self._charges(attempt.task, attempt.args, attempt.kwargs, attempt.priority)
        if not charges:
            return proceed(attempt)
        owner = attempt.attempt_id or uuid4().hex
        asking = Asking(owner, attempt.task_id if attempt.parks else "", attempt.priority, PATIENCE)
        try:
            found = self.limits.acquire(asking, charges, self.lease)
        except StoreUnavailable as error:
            return self._without(attempt, proceed, error)
        if isinstance(found, Limited):
            raise _wait(attempt, found)
        if found.wait:
            time.sleep(found.wait)
        try:
            return self._run(owner, found, attempt, proceed, charges)
        except RateLimited as limited:
            raise self._told(attempt, limited, charges) from limited

    def _run(
        self,
        owner: str,
        granted: Granted,
        attempt: Attempt,
        proceed: Callable[[Attempt], Any],
        charges: Sequence[Charge],
    ) -> Any:
        slots = [charge.id for charge in charges if charge.slot]
        if not slots:
            return proceed(attempt)
        # The number of its key is the one that its far side knows.
        fence = nullcontext() if fencing() is not None else fenced(granted.fence)
        try:
            with self.limits.keep(owner, slots, granted.fence, self.lease), fence:
                value = proceed(attempt)
        except BaseException:
            self._release(owner, slots)
            raise
        self._release(owner, slots, soon=attempt.parts)
        return value

    def _without(self, attempt: Attempt, proceed: Callable[[Attempt], Any], error: StoreUnavailable) -> Any:
        if self.fail_open:
            logger.warning("Task %s[%s] runs without its limits: %s", attempt.task.name, attempt.task_id, error)
            return proceed(attempt)
        logger.warning("Task %s[%s] waits, its limits cannot be asked: %s", attempt.task.name, attempt.task_id, error)
        raise Defer(WHILE_AWAY * random.uniform(0.5, 1.5)) from error  # noqa: S311 - spreads, guards nothing

    def _told(self, attempt: Attempt, limited: RateLimited, charges: Sequence[Charge]) -> Defer:
        """The far side said "too many": let everybody know, and wait."""
        rates = [charge for charge in charges if not charge.slot]
        if not rates:
            return limited
        try:
            self.limits.hold([charge.id for charge in rates], limited.retry_after)
        except StoreUnavailable as error:
            logger.warning("Others are not told that %s[%s] met a limit: %s", attempt.task.name, attempt.task_id, error)
            return limited
        return _wait(attempt, Limited(rates[0], limited.retry_after))

    def _release(self, owner: str, slots: Sequence[str], *, soon: bool = False) -> None:
        try:
            self.limits.release(owner, slots, soon=soon)
        except StoreUnavailable as error:
            logger.warning("Slots of %s free themselves: %s", ", ".join(slots), error)

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Free the slots of a process that died; whoever ended alive has done so itself."""
        if outcome.verdict not in _DIED or not attempt.attempt_id or not self.applies(attempt.task, attempt.header):
            return
        try:
            charges = self._charges(attempt.task, attempt.args, attempt.kwargs, 0)
        except InvalidOption:
            return
        if slots := [charge.id for charge in charges if charge.slot]:
            self._release(attempt.attempt_id, slots)

    def _charges(self, task: Any, args: Any, kwargs: Any, priority: int) -> list[Charge]:
        limits = task.limits
        arguments: dict[str, Any] = {}
        if any(limit.reads_arguments for limit in limits):
            fits, arguments = bound(task.run, args, kwargs)
            if fits is None:
                return []
        return [limit.charge(task.name, arguments, priority) for limit in limits]


def _wait(attempt: Attempt, limited: Limited) -> Defer:
    """Return what lets a message wait: in line where there are lines, else for about as long as it takes."""
    charge = limited.charge
    if attempt.parks:
        waiting = Waiting(charge.id, charge.spec, charge.units, limited.place, attempt.priority, attempt.task_id)
        return Park(waiting, limited.seconds)
    first, most = LOOK_AGAIN
    spread = min(most, first * 2.0 ** min(attempt.header.get("deferrals", 0), 16)) * random.uniform(0.5, 1.0)  # noqa: S311
    # A slot may come free long before the lease of its holder ends; a rate lets nobody through before its time.
    return Defer(min(limited.seconds, spread) if charge.slot else limited.seconds + spread)
