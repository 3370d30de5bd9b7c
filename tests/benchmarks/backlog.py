"""``backlog``: tasks per second with a million messages waiting, against the same with an empty queue."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from typing import Self

from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.delay_one_by_one import Producer, ours
from tests.benchmarks.throughput import ours_worker
from tests.support import environment
from tests.support.wait import eventually

#: Messages that wait; one run, which only shows the form, does with fewer.
WAITING, FEW = 1_000_000, 10_000
TASKS = 3000


class Side:
    """A worker with two processes and its queue, stopped but while it is measured."""

    def __init__(self, producer: Producer, waiting: int) -> None:
        self.producer = producer
        self._waiting = waiting
        self._worker = ours_worker(queue=producer.queue)
        self._client = environment.world().broker.client

    def __enter__(self) -> Self:
        if self._waiting:
            self.producer.publish(self._waiting, "at once")
        self._worker.start()
        self._worker.kill_group(signal.SIGSTOP)
        self.rate()
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.kill_group(signal.SIGCONT)
        self._client.delete(self.producer.queue)
        self._worker.stop()

    def rate(self) -> float:
        """Add what is worked off, and work it off; return tasks per second."""
        # Before: of what is published now, a worker that waits gets its first part even while it is stopped.
        left = self._client.llen(self.producer.queue)
        self.producer.publish(TASKS, "at once")
        self._worker.kill_group(signal.SIGCONT)
        begun = time.monotonic()
        eventually(
            lambda: self._client.llen(self.producer.queue) <= left,
            120,
            lambda: f"worked off\n{self._worker.tail()}",
            most=0.01,
        )
        seconds = time.monotonic() - begun
        self._worker.kill_group(signal.SIGSTOP)
        return TASKS / seconds


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up; "peer" is ourselves with an empty queue."""
    pairs: list[tuple[float, float]] = []
    waiting = WAITING if budget.runs > 1 else FEW
    with ExitStack() as stack:
        producers = [stack.enter_context(ours(name)) for name in ("full", "empty")]
        full, empty = [
            stack.enter_context(Side(producer, number))
            for producer, number in zip(producers, (waiting, 0), strict=True)
        ]
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            if len(pairs) % 2:
                peer, mine = empty.rate(), full.rate()
            else:
                mine, peer = full.rate(), empty.rate()
            pairs.append((mine, peer))
    return Result.of_pairs("backlog", pairs, "tasks/s", waiting=waiting, tasks=TASKS)
