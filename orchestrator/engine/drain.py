"""An orderly end of a worker: stop taking messages, finish what runs, then leave.

Celery's warm shutdown leaves its event loop first and waits for the pool after. Nobody
then reads the results of the last tasks: their children wait half a minute for it, and
messages whose task has run go back to the queue unacknowledged. Here the loop goes on
until the last result is in and acknowledged.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from celery import bootsteps, signals
from celery.apps.worker import on_SIGINT
from celery.worker import state

logger = logging.getLogger("orchestrator.engine")

#: Seconds between two looks at whether the last task has ended.
LOOK_EVERY = 0.2


class Drain(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery is untyped
    """Consumer step that takes over SIGTERM and SIGINT while the event loop runs.

    SIGQUIT, a second SIGINT and Celery's soft shutdown stay as they are. Messages that
    wait here for their time go back to the broker at the end, as in Celery.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._asked: signal.Signals | None = None
        self._draining = False
        self._looping = False
        self._entry: Any = None
        self._stock: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._pid = os.getpid()

    def start(self, c: Any) -> None:
        """Begin to listen for signals; again after every reconnect."""
        if c.hub is None:  # pools without an event loop keep Celery's way
            return
        self._draining = False  # a new connection has a new consumer, which must be cancelled too
        self._looping = True
        self._entry = c.timer.call_repeatedly(LOOK_EVERY, self._look, (c,))
        for number in (signal.SIGTERM, signal.SIGINT):
            stock = signal.getsignal(number)
            if number not in self._stock and callable(stock):
                self._stock[number] = stock
                signal.signal(number, lambda number, frame: self._on_signal(c, number, frame))

    def stop(self, c: Any) -> None:
        """The loop ends. If that was not our doing (a lost connection), nothing is left to wait for."""
        self._looping = False
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        if self._asked is not None and state.should_stop is None:
            state.should_stop = os.EX_OK

    def _on_signal(self, c: Any, number: int, frame: FrameType | None) -> None:
        # Only a note: the loop may be anywhere, so it acts on it at its next look.
        if not self._looping or os.getpid() != self._pid:
            self._stock[number](number, frame)
            return
        if self._asked is None:
            self._asked = signal.Signals(number)
        if number == signal.SIGINT:
            on_SIGINT(c.controller)  # from now on, another one ends running tasks

    def _look(self, c: Any) -> None:
        if self._asked is None:
            return
        if not self._draining:
            self._draining = True
            running = len(state.active_requests)
            logger.warning("%s: takes no more messages, waits for %d running tasks", self._asked.name, running)
            signals.worker_shutting_down.send(sender=c.hostname, sig=self._asked.name, how="Warm", exitcode=os.EX_OK)
            c.task_consumer.cancel()
        if not state.reserved_requests and not state.active_requests:
            state.should_stop = os.EX_OK
