"""Calls that mean the same run are one message; later callers get the id of the first."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from orchestrator.contracts import events
from orchestrator.contracts.deduplication import (
    FIELD,
    OPTION,
    Claim,
    Deduplicate,
    DeduplicationLocks,
    Duplicate,
    Mode,
    Taken,
    Wait,
)
from orchestrator.contracts.errors import InvalidOption, StoreUnavailable
from orchestrator.contracts.keys import bound
from orchestrator.contracts.message import HEADER, Attempt, Parcel, Publication
from orchestrator.contracts.outcome import Defer, Outcome, Verdict
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import Dispatch

logger = logging.getLogger("orchestrator.deduplication")

#: Options of a call that others hang on: to drop it would drop them.
NOT_ALONE = ("chain", "chord", "group_id", "link", "link_error")
#: Seconds for which a call waits to hear whether the first one was sent.
PATIENCE = 2.0
#: Seconds between two looks meanwhile: the first, and the longest.
LOOKS = (0.002, 0.1)
#: Seconds until a message is tried again whose newest arguments cannot be looked up.
WHILE_AWAY = 2.0
#: Seconds for which calls are sent unasked once the store did not answer.
REST = 2.0
#: Seconds for which a letter that could not be stored can be built again.
AGAIN = 3600.0


class Deduplication(Policy):
    """Publishes the first of several calls with one key, under the law that the task's mode states.

    A call takes the lock of its key, in the name of its task id, before it is sent; without a
    lock it is a duplicate. Every end of the run gives the lock back. *Fails: open, unless
    ``ORCHESTRATOR["DEDUPLICATION_FAILS"]`` is "closed". While the store is away a call is sent
    (closed: refused), and a message runs, except that one which may have to take over newer
    arguments waits.*
    """

    holding = True

    def __init__(self, locks: DeduplicationLocks, dispatch: Dispatch, *, fails_open: bool = True) -> None:
        self.locks = locks
        self.dispatch = dispatch
        self.fails_open = fails_open
        self._resting_until = 0.0

    @classmethod
    def build(cls, parts: Parts) -> Deduplication:
        """Take the locks."""
        return cls(parts.deduplication, parts.dispatch, fails_open=parts.deduplication_open)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only messages that claim to be the one run of a key."""
        return FIELD in header

    # --- publishing -----------------------------------------------------------------

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Send the first, and answer the others with its id.

        Raises:
            UnknownOption, InvalidOption: the call's own rule, or an argument of its key, cannot work.
            StoreUnavailable: the locks cannot be reached, and the settings say that then nothing is sent.
        """
        rule = publication.options.pop(OPTION, None)
        if rule is None:
            rule = getattr(publication.task, OPTION, None)
        if not rule or not self._may_be_dropped(publication):
            return proceed(publication)
        claim = _claim(rule, publication)
        if claim is None:
            return proceed(publication)
        publication.header[FIELD] = claim.to_header()
        publication.alone = True
        arguments = self.locks.encode(publication.args, publication.kwargs) if claim.newest else ""
        if self.dispatch.place(publication) is not None:
            return self._keep(publication, claim, proceed)
        found = self._asked(lambda: self._take(claim, publication.task_id, arguments, None), publication)
        if isinstance(found, Duplicate):
            return self._answer(publication.name, publication.task_id, claim, found, publication)
        if not isinstance(found, Taken):
            return proceed(publication)
        _postpone(publication.options, found.delay)
        return self._hold(claim, publication.task_id, _ahead(publication.options), lambda: proceed(publication))

    def _may_be_dropped(self, publication: Publication) -> bool:
        options = publication.options
        if publication.republication or any(options.get(name) for name in NOT_ALONE):
            return False
        return not self.dispatch.of_the_worker(publication)

    def _keep(self, publication: Publication, claim: Claim, proceed: Callable[[Publication], Any]) -> Any:
        """Let the outbox keep it: the lock is taken when it is sent, so a rollback leaves nothing behind."""
        owner = self._asked(lambda: self.locks.owner(claim), publication)
        if owner is None or owner == publication.task_id:
            return proceed(publication)
        if claim.newest:
            # Its arguments are the newest only if the transaction commits.
            proceed(publication)
        return self._answer(publication.name, publication.task_id, claim, Duplicate(owner), publication)

    def on_send(self, parcel: Parcel, proceed: Callable[[Parcel], Any]) -> Any:
        """Send what the outbox kept, unless it is a duplicate by now.

        Raises:
            StoreUnavailable: as in :meth:`on_publish`; it stays in the outbox.
        """
        header = parcel.message.headers.get(HEADER) or {}
        claim = Claim.of(parcel.task, header)
        if claim is None:
            return proceed(parcel)
        arguments = json.dumps(json.loads(parcel.message.body)[:2]) if claim.newest else ""
        found = self._asked(lambda: self._take(claim, parcel.task_id, arguments, header.get("at")), parcel)
        if isinstance(found, Duplicate):
            self._answer(parcel.task, parcel.task_id, claim, found, None)
            return None
        if not isinstance(found, Taken):
            return proceed(parcel)
        # A delay was not known when the message was built; the start of the run keeps it.
        ahead = _ahead({"eta": parcel.message.headers.get("eta")})
        return self._hold(claim, parcel.task_id, ahead, lambda: proceed(parcel))

    def _asked(self, ask: Callable[[], Any], what: Publication | Parcel) -> Any:
        """Return what the store says; None if it cannot be asked and the call is sent all the same."""
        if self.fails_open and time.monotonic() < self._resting_until:
            return None
        try:
            return ask()
        except StoreUnavailable as error:
            if not self.fails_open:
                raise
            # A frozen store would hold each of many calls.
            self._resting_until = time.monotonic() + REST
            logger.warning("Task %s is sent though it may be a duplicate: %s", what.task_id, error)
            return None

    def _take(self, claim: Claim, task_id: str, arguments: str, called: float | None) -> Taken | Duplicate | None:
        """Take the lock; while its owner is just publishing, wait to hear whether that succeeds."""
        deadline = time.monotonic() + PATIENCE
        pause, longest = LOOKS
        while True:
            found = self.locks.take(claim, task_id, arguments, called)
            if isinstance(found, Taken | Duplicate):
                return found
            if time.monotonic() >= deadline:
                # Two messages are better than none.
                logger.warning("Task %s is sent though %s may be the first.", task_id, found.task_id)
                return None
            time.sleep(pause)
            pause = min(longest, pause * 2)

    def _hold(self, claim: Claim, task_id: str, ahead: float, send: Callable[[], Any]) -> Any:
        """Send under the lock; one whose message was not sent holds nobody up."""
        try:
            result = send()
        except BaseException:
            self._quietly(lambda: self.locks.end(claim, task_id), claim)
            raise
        seconds = claim.window if claim.mode is Mode.WINDOW else claim.ttl + ahead
        self._quietly(lambda: self.locks.confirm(claim, task_id, seconds), claim)
        return result

    def _answer(self, task: str, task_id: str, claim: Claim, found: Duplicate, publication: Publication | None) -> Any:
        events.emit(events.DuplicateDropped(task=task, task_id=task_id, key=claim.key, duplicate_of=found.task_id))
        logger.info("Call of %s under key %r is a duplicate of %s.", task, claim.key, found.task_id)
        return None if publication is None else self.dispatch.duplicate(publication, found.task_id)

    # --- executing ------------------------------------------------------------------

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body, with the newest arguments where the mode says so.

        Raises:
            Defer: it is not its time yet, or the newest arguments cannot be looked up.
        """
        claim = Claim.of(attempt.task, attempt.header)
        if claim is None or claim.mode is Mode.WINDOW:
            return proceed(attempt)
        try:
            found = self.locks.begin(claim, attempt.task_id, attempt.attempt_id)
        except StoreUnavailable as error:
            if claim.newest:
                raise Defer(WHILE_AWAY * random.uniform(0.5, 1.5)) from error  # noqa: S311 - spreads, guards nothing
            logger.warning("Task %s runs though its lock cannot be looked up: %s", attempt.task_id, error)
            return proceed(attempt)
        if isinstance(found, Wait):
            raise Defer(found.seconds)
        if found.newer is not None:
            attempt.newer = found.newer
            attempt.args, attempt.kwargs = found.newer
        kept: AbstractContextManager[None] = self.locks.keep(claim, attempt.task_id) if found.held else nullcontext()
        try:
            with kept:
                value = proceed(attempt)
        except BaseException:
            # Whether it is over is settled elsewhere.
            if found.held:
                self._quietly(lambda: self.locks.pause(claim, attempt.task_id), claim)
            raise
        if found.held or found.newer is not None:
            if attempt.parts:
                self.locks.end_soon(claim, attempt.task_id, attempt.attempt_id)
                return value
            self._quietly(lambda: self.locks.end(claim, attempt.task_id, attempt.attempt_id), claim)
        return value

    # --- settling -------------------------------------------------------------------

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Give back what a run held that is over; let its letter have the arguments that it ran with."""
        claim = Claim.of(attempt.task, attempt.header)
        if claim is None or claim.mode is Mode.WINDOW or not outcome.verdict.terminal:
            return
        if outcome.verdict is Verdict.REJECTED and outcome.reason is None:
            # Back to its queue.
            return
        # What was skipped may be a copy, which began nothing.
        began = attempt.attempt_id if outcome.verdict is Verdict.SKIPPED else ""
        try:
            # Settling may be repeated until the letter is safe.
            newer = self.locks.end(claim, attempt.task_id, began, again=AGAIN if outcome.reason else 0.0)
        except StoreUnavailable as error:
            logger.warning("The lock of %s frees itself: %s", attempt.task_id, error)
            return
        if newer is not None:
            attempt.newer = newer

    def _quietly(self, tell: Callable[[], Any], claim: Claim) -> None:
        try:
            tell()
        except StoreUnavailable as error:
            logger.warning("Lock %s ends by itself: %s", claim.name, error)


def _claim(rule: Any, publication: Publication) -> Claim | None:
    """Return what a call claims; None if its arguments do not fit the task, which the worker says better."""
    name, task = publication.name, publication.task
    if not isinstance(rule, Deduplicate):
        raise InvalidOption(f'{OPTION}={rule!r} for {name}: give a Deduplicate("until_started", …) value, or False.')
    if task is None:
        # Sent by name: what this process does not know is told apart by keywords.
        named = dict(publication.kwargs)
        return rule.claim(name, {"args": list(publication.args), "kwargs": named}, named)
    arguments, named = bound(task.run, publication.args, publication.kwargs)
    return None if arguments is None else rule.claim(name, arguments, named)


def _ahead(options: Mapping[str, Any]) -> float:
    """Return in how many seconds a message is due."""
    eta = options.get("eta")
    if isinstance(eta, str):
        try:
            eta = datetime.fromisoformat(eta)
        except ValueError:
            return 0.0
    if isinstance(eta, datetime):
        return max(0.0, (eta - datetime.now(eta.tzinfo)).total_seconds())
    return max(0.0, float(options.get("countdown") or 0))


def _postpone(options: dict[str, Any], seconds: float) -> None:
    """Let a message be due in so many seconds, or later if its caller said so."""
    if seconds > _ahead(options):
        options.pop("eta", None)
        options["countdown"] = seconds
