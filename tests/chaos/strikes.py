"""SIGKILL, again and again: to relays, workers and the processes of their pools, each of which comes again."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from tests.chaos.agenda import Agenda
from tests.support.process import Process
from tests.support.wait import eventually
from tests.support.worker import Worker


class Strikes:
    """Kills, and counts by kind what it killed.

    Attributes:
        done: how often, by kind.
        last_words: end of the log of a worker that was gone by itself, which none must be.
    """

    def __init__(self, dice: Random) -> None:
        self.done: Counter[str] = Counter()
        self.last_words = ""
        self._dice = dice
        #: Where the log of a process's present life begins, by its name.
        self._since: dict[str, int] = {}

    def go_on(self, blows: Sequence[Callable[[], None]], seconds: float, over: Callable[[], bool] = bool) -> None:
        """Strike every second or so: each blow once, then as chance has it.

        Args:
            seconds: how long, at least.
            over: whether there is nothing left to disturb.
        """
        agenda, end = Agenda(), time.monotonic() + seconds
        order = [*self._dice.sample(blows, len(blows))]

        def strike() -> None:
            (order.pop() if order else self._dice.choice(blows))()
            if order or (time.monotonic() < end and not over()):
                agenda.after(self._dice.uniform(0.2, 1.5), strike)

        agenda.after(0.2, strike)
        agenda.run()

    def process(self, process: Process, kind: str) -> None:
        """Kill a process with its children, and start it again."""
        if process.running:
            process.kill_group()
            process.wait()
        self._since[process.name] = process.launch()
        self.done[f"{kind}_killed"] += 1

    def child(self, worker: Worker) -> None:
        """Kill one of the processes that run a worker's tasks, once it is ready: one that starts runs none.

        Celery ends a prefork worker that loses a process while it starts.
        """
        since = self._since.get(worker.name, 0)
        ready = worker.ready
        assert ready is not None
        eventually(lambda: not worker.running or (worker.pool_children() and ready.search(worker.log[since:])), 120)
        children = worker.pool_children()
        if not worker.running:
            # By itself, and that it must not.
            self.done["workers_gone"] += 1
            self.last_words = worker.tail()
            self._since[worker.name] = worker.launch()
        elif children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._dice.choice(children), signal.SIGKILL)
            self.done["children_killed"] += 1

    @staticmethod
    def start_missing(processes: Sequence[Process]) -> None:
        """Start what does not run, and wait until it is ready."""
        for process in processes:
            if not process.running:
                process.start()
