"""A task with an idempotency key takes effect once; whoever comes later gets the recorded result."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from orchestrator.contracts import events
from orchestrator.contracts.errors import IdempotencyConflict, InvalidOption, StoreUnavailable
from orchestrator.contracts.fencing import fenced
from orchestrator.contracts.idempotency import (
    BY_CALL,
    KEY,
    Began,
    Completed,
    Effect,
    Held,
    IdempotencyRecords,
    Idempotent,
    TransactionalRecords,
    checked_key,
)
from orchestrator.contracts.keys import bound, fingerprint
from orchestrator.contracts.message import Attempt, Publication
from orchestrator.contracts.outcome import Defer, Outcome, Verdict
from orchestrator.contracts.policy import Parts, Policy

logger = logging.getLogger("orchestrator.idempotency")

#: Seconds until somebody who waits for a key looks again: at first, and at most.
LOOK_AGAIN = (0.25, 10.0)
#: Seconds until a message is tried again while the store is away.
WHILE_AWAY = 2.0
#: Seconds between tries to record an effect that has taken place.
RECORD_AGAIN = (0.1, 2.0)


class Idempotency(Policy):
    """Runs the body of a key's first attempt; others wait for it or get what it returned.

    The owner of a key is one attempt, so a redelivered copy waits like any other. A
    failure frees the key, so retries and redrives run. *Fails: closed. While the store
    is away messages are deferred and no body starts; a body that has run waits until
    its record is written, for as long as its time limits allow.*
    """

    holding = True

    def __init__(
        self,
        records: IdempotencyRecords,
        transactional: Callable[[], TransactionalRecords],
        lease: float,
    ) -> None:
        self.records = records
        self.lease = lease
        self._transactional = transactional

    @classmethod
    def build(cls, parts: Parts) -> Idempotency:
        """Take both kinds of records."""
        return cls(parts.idempotency, parts.transactional_records, parts.lease_seconds)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only tasks that declare a key, and messages that carry one."""
        return KEY in header or getattr(task, "idempotency", None) is not None

    # --- publishing -----------------------------------------------------------------

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Move a call's own key into the header; refuse a key that could not work later.

        Raises:
            InvalidOption: the key is empty, too long or made of something that names nothing.
        """
        if KEY in publication.options:
            publication.header[KEY] = checked_key(publication.name, publication.options.pop(KEY))
        task = publication.task
        if getattr(task, "idempotency", None) is not None and not publication.republication:
            self._effect(task, publication.task_id, publication.args, publication.kwargs, publication.header)
        return proceed(publication)

    # --- executing ------------------------------------------------------------------

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body, or return what is recorded.

        Raises:
            Defer: somebody else is at it, or the store is away.
            IdempotencyConflict: the key belongs to a call with other arguments.
            InvalidOption: the key cannot be made out of the arguments.
            EncodeError: the body's value is not JSON, so it cannot be recorded.
        """
        effect = self._effect(attempt.task, attempt.task_id, attempt.args, attempt.kwargs, attempt.header)
        if effect is None:
            return proceed(attempt)
        owner = attempt.attempt_id or uuid4().hex
        try:
            found = self.records.begin(effect, owner, self.lease)
        except StoreUnavailable as error:
            logger.warning("Task %s[%s] waits, its key cannot be looked up: %s", effect.task, effect.task_id, error)
            raise Defer(WHILE_AWAY * random.uniform(0.5, 1.5)) from error  # noqa: S311 - spreads, guards nothing
        if not isinstance(found, Began):
            return self._answer(attempt, effect, found)
        try:
            with self.records.keep(found.lease, self.lease), fenced(found.lease.fence):
                return self._run(attempt, effect, found, proceed)
        except BaseException:
            self._give_up(effect, owner)
            raise

    def _run(self, attempt: Attempt, effect: Effect, began: Began, proceed: Callable[[Attempt], Any]) -> Any:
        if not self._option(attempt.task).transactional:
            value = proceed(attempt)
            if attempt.parts:
                self.records.complete_soon(effect, began.lease, value)
            else:
                self._record(effect, began, value)
            return value
        try:
            ran, recorded = self._transactional().run(effect, began.lease.fence, lambda: proceed(attempt))
        except StoreUnavailable as error:
            # Nothing took effect, or it did and is recorded: both are known at the next look.
            logger.warning("Task %s[%s] waits for its database: %s", effect.task, effect.task_id, error)
            raise Defer(WHILE_AWAY) from error
        self._give_up(effect, began.lease.owner, soon=attempt.parts)
        return recorded.value if ran else self._answer(attempt, effect, recorded)

    def _answer(self, attempt: Attempt, effect: Effect, found: Held | Completed) -> Any:
        """Return the recorded result, or wait for it."""
        if found.fingerprint != effect.fingerprint:
            state = "completed" if isinstance(found, Completed) else "is in progress"
            raise IdempotencyConflict(
                f"The idempotency key {effect.key!r} of task {effect.task} {state} for a call with other arguments, so "
                "this one was not run. Two different intents share a key: make the key tell them apart, and redrive "
                "with the arguments of the first, discard, or free the key."
            )
        if isinstance(found, Completed):
            attempt.verdict = Verdict.REPLAYED
            events.emit(events.RunReplayed(task=effect.task, task_id=effect.task_id, key=effect.key))
            logger.info("Task %s[%s] returns the recorded result of its key.", effect.task, effect.task_id)
            return found.value
        first, most = LOOK_AGAIN
        pause = min(most, first * 2.0 ** min(attempt.header.get("deferrals", 0), 16))
        raise Defer(max(0.05, min(found.seconds, pause * random.uniform(0.5, 1.0))))  # noqa: S311 - spreads only

    def _record(self, effect: Effect, began: Began, value: Any) -> None:
        """Record what took effect; nobody else can begin while the store is away, so waiting is safe."""
        pause, longest = RECORD_AGAIN
        while True:
            try:
                first = self.records.complete(effect, began.lease, value)
                break
            except StoreUnavailable as error:
                logger.warning("Result of %s[%s] is not recorded yet: %s", effect.task, effect.task_id, error)
            time.sleep(pause)
            pause = min(longest, pause * 2)
        if not first:
            events.emit(events.LeaseLost(effect.task, effect.task_id, effect.key, began.lease.fence))
            logger.error("Task %s[%s] lost its key while it ran.", effect.task, effect.task_id)

    def _give_up(self, effect: Effect, owner: str, *, soon: bool = False) -> None:
        try:
            self.records.give_up(effect, owner, soon=soon)
        except StoreUnavailable as error:
            logger.warning("The key of %s[%s] frees itself: %s", effect.task, effect.task_id, error)

    # --- settling -------------------------------------------------------------------

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Free the key of a process that died; whoever failed alive has done so itself."""
        if outcome.verdict is not Verdict.LOST or not attempt.attempt_id:
            return
        if not self.applies(attempt.task, attempt.header):
            return
        try:
            effect = self._effect(attempt.task, attempt.task_id, attempt.args, attempt.kwargs, attempt.header)
        except InvalidOption:
            return
        if effect is not None:
            self._give_up(effect, attempt.attempt_id)

    # --- keys -----------------------------------------------------------------------

    @staticmethod
    def _option(task: Any) -> Idempotent:
        return getattr(task, "idempotency", None) or BY_CALL

    def _effect(self, task: Any, task_id: str, args: Any, kwargs: Any, header: Mapping[str, Any]) -> Effect | None:
        """Return what the call intends; None if there is no key, or the arguments do not fit the signature."""
        if not self.applies(task, header):
            return None
        arguments, named = bound(task.run, args, kwargs)
        if arguments is None:
            return None
        option = self._option(task)
        key = checked_key(task.name, header[KEY]) if KEY in header else option.key_for(task.name, named)
        return Effect(task.name, key, fingerprint(arguments), task_id, option.seconds)
