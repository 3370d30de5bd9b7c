"""``manage.py relay``: moves dead letters from Redis into the database, sends what the outbox holds."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFailure
from django.db import connections

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.contracts.errors import ConfigurationError, StoreUnavailable
from orchestrator.deadletters import services
from orchestrator.deadletters.drain import Drain, source
from orchestrator.idempotency import retention as idempotency
from orchestrator.limits import services as limits
from orchestrator.monitoring import delayed
from orchestrator.outbox import services as outbox
from orchestrator.runs import chords, retention
from orchestrator.runs import drain as results
from orchestrator.runs.attempts import AttemptDrain
from orchestrator.runs.outgoing import store
from orchestrator.stores.redis.presence import SHOW_EVERY, Presence
from orchestrator.transport.setback import Memory

logger = logging.getLogger("orchestrator.relay")

#: Seconds to wait for a letter before looking at the other duties: while there is nothing to do, and while there is.
WAIT, BUSY_WAIT = 0.5, 0.05
#: Seconds between two looks at redrives that were cut off.
RESUME_EVERY = 3.0
#: Seconds between two looks at what is due; workers look as well, so this is for times without any.
MOVE_EVERY = 0.5
#: Seconds between two looks at whether Redis knows the limits that people changed.
REPAIR_EVERY = 5.0
#: Seconds between two looks for chords whose last member could not look itself.
CHORDS_EVERY = 5.0
#: Seconds between two looks for messages of the outbox that have ended; many are forgotten by one statement.
FORGET_EVERY = 0.5
#: Seconds between two rounds of retention.
PRUNE_EVERY = 3600.0
#: Seconds between tries while a store is away: the first, and the longest.
BACKOFF = (0.2, 5.0)

#: What a duty raises while a store is away.
AWAY = (StoreUnavailable, DatabaseFailure)


class Stop:
    """Whether the process was asked to end; waits that a signal cuts short.

    A pipe, because a handler that took a lock could meet the very wait that holds it.
    """

    def __init__(self) -> None:
        self.asked = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def listen(self) -> None:
        """End in order on SIGTERM and the first SIGINT; the second SIGINT interrupts at once."""
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def wait(self, seconds: float) -> None:
        """Wait, unless asked to end."""
        if not self.asked:
            select.select([self._read], [], [], seconds)

    def _ask(self, number: int, _frame: Any) -> None:
        self.asked = True
        os.write(self._write, b"x")
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Duty:
    """Something a relay does again and again; an outage is waited out and told once."""

    def __init__(self, name: str, work: Callable[[], int], *, every: float = 0.0) -> None:
        self.name = name
        self._work = work
        self._every = every
        self._due = 0.0
        self._pause = 0.0
        self._trouble = ""

    @property
    def due(self) -> float:
        """Time on the monotonic clock at which it is next to be done."""
        return self._due

    def __call__(self) -> int:
        """Do it if it is due.

        Returns:
            how much was done; nothing while a store is away.
        """
        if time.monotonic() < self._due:
            return 0
        try:
            done = self._work()
        except AWAY as error:
            self._failed(error)
            return 0
        if self._trouble:
            logger.info("%s: going on again.", self.name)
        self._trouble, self._pause = "", 0.0
        self._due = time.monotonic() + self._every
        return done

    def _failed(self, error: Exception) -> None:
        kind = type(error).__name__
        self._pause = min(max(BACKOFF[0], self._pause * 2), BACKOFF[1])
        self._due = time.monotonic() + self._pause
        if kind != self._trouble:
            logger.warning("%s: waiting, nothing is lost. %s: %s", self.name, kind, str(error).strip())
            self._trouble = kind
        # A broken connection stays broken; the next try makes a new one.
        for connection in connections.all(initialized_only=True):
            if not connection.in_atomic_block:
                connection.close()


class Command(BaseCommand):
    """Run one relay; any number may run side by side."""

    help = (
        "Move dead letters from Redis into the database within a second of their arrival, send what the outbox "
        "holds, publish again what a redrive left half done, move delayed messages that are due, and delete what "
        "retention settings allow. Any number of relays may run. "
        "Ends in order on SIGTERM or Ctrl-C. Exit code 0; 1 if --once could not finish or nothing is configured."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("--once", action="store_true", help="end when no letter is left, instead of waiting")
        parser.add_argument("--batch", type=int, default=200, help="letters written by one statement (default 200)")

    def handle(self, *, once: bool, batch: int, **_: Any) -> None:
        """Run until asked to end, or until nothing is left."""
        if batch < 1:
            raise CommandError(f"--batch {batch}: give a whole number, 1 or more.")
        try:
            letters = source()
        except ConfigurationError as error:
            raise CommandError(str(error)) from error
        drain = Drain(letters)
        settings = conf.settings()
        presence = Presence(conf.state_url(), settings.key_prefix, "relay", settings.letterbox_timeout)
        if once:
            self._once(drain, batch)
        else:
            _run(drain, batch, _sign(presence, letters.reader))
        try:
            letters.close()
            presence.leave(letters.reader)
        except StoreUnavailable as error:
            logger.info("Leaving without signing off: %s", error)

    def _once(self, drain: Drain, batch: int) -> None:
        try:
            filed = 0
            while done := drain(batch, 0.0):
                filed += done
            delayed.keep_moving()
            write_results = _results()
            sent = 0
            while done := outbox.sweep():
                sent += done
            note_attempts = AttemptDrain()
            while write_results() + note_attempts():
                pass
            note_attempts.close()
            resumed = services.resume_interrupted()
            while outbox.forget_ended():
                pass
            pruned = services.prune() + retention.prune(services.open_among) + idempotency.prune() + outbox.prune()
        except AWAY as error:
            raise CommandError(f"The relay could not finish; nothing is lost. {error}") from error
        self.stdout.write(f"filed {filed}, sent {sent}, resumed {resumed}, pruned {pruned}")


def _sign(presence: Presence, name: str) -> Callable[[], int]:
    def show() -> int:
        presence.show(name)
        return 0

    return show


def _results() -> Callable[[], int]:
    """Return what writes results that wait in Redis."""
    return lambda: results.drain(store())


def _run(drain: Drain, batch: int, show: Callable[[], int]) -> None:
    stop = Stop()
    stop.listen()
    busy = False
    attempts = AttemptDrain()
    letters = Duty("Letters", lambda: drain(batch, BUSY_WAIT if busy else WAIT))
    duties = (
        letters,
        Duty("Delayed messages", partial(delayed.keep_moving, Memory()), every=MOVE_EVERY),
        Duty("Results", _results()),
        Duty("Attempts", attempts),
        Duty("Chords", lambda: chords.look_again(get_app()), every=CHORDS_EVERY),
        Duty("Outbox", outbox.sweep),
        Duty("Ended messages of the outbox", outbox.forget_ended, every=FORGET_EVERY),
        Duty("Changed limits", limits.repair, every=REPAIR_EVERY),
        Duty("Redrives", services.resume_interrupted, every=RESUME_EVERY),
        Duty("Retention of letters", services.prune, every=PRUNE_EVERY),
        Duty("Retention of results", lambda: retention.prune(services.open_among), every=PRUNE_EVERY),
        Duty("Retention of idempotency records", idempotency.prune, every=PRUNE_EVERY),
        Duty("Retention of the outbox", outbox.prune, every=PRUNE_EVERY),
        Duty("Sign of life", show, every=SHOW_EVERY),
    )
    logger.info("Relay ready.")
    while not stop.asked:
        done = 0
        for duty in duties:
            done += duty()
            if stop.asked:
                break
        busy = done > 0
        # Only while the letters' store is away: else the drain itself waits for the next letter.
        stop.wait(max(0.0, min(WAIT, letters.due - time.monotonic())))
    try:
        attempts.close()
    except StoreUnavailable as error:
        logger.info("Leaving without signing off: %s", error)
    logger.info("Relay ended in order.")
