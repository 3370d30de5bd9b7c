"""``latency``: ms from ``delay()`` to the start of the body at 20 tasks a second, against Celery's transport."""

from __future__ import annotations

import time
from contextlib import ExitStack
from statistics import quantiles
from typing import Self

from orchestrator.celery import get_app
from tests.benchmarks.catalogue import Budget, Result
from tests.support import far_side
from tests.support.wait import eventually, pause
from tests.support.worker import Worker

PAUSE = 1 / 20
SAMPLES = 100


class Side:
    """A worker on one transport. The producer is this process, for both, so that only the worker differs."""

    def __init__(self, transport: str, pool: str) -> None:
        self._queue = f"latency-{transport}"
        env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.benchmarks.tasks", "ORCHESTRATOR_TRANSPORT": transport}
        self._worker = Worker(pool=pool, concurrency=2, queues=[self._queue], env=env)
        self._run = 0

    def __enter__(self) -> Self:
        self._worker.start()
        self.sample(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.stop()

    def sample(self, count: int = SAMPLES) -> list[float]:
        """Send ``count`` tasks at their pace; return the latencies in ms."""
        from tests.benchmarks.tasks import note_start

        key = f"{self._queue}-{self._run}"
        self._run += 1
        for _ in range(count):
            note_start.apply_async((key, time.time()), queue=self._queue)
            pause(PAUSE)
        eventually(lambda: len(far_side.effects(key)) == count, 60, self._worker.tail)
        return [(effect["at"] - effect["sent"]) * 1000 for effect in far_side.effects(key)]


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up; the result is the median latency, p99 of all samples beside it."""
    get_app().set_default()
    pairs: list[tuple[float, float]] = []
    seen: dict[str, list[float]] = {"ours": [], "peer": []}
    with ExitStack() as stack:
        ours, stock = [stack.enter_context(Side(*side)) for side in (("orchestrator", "swarm"), ("stock", "prefork"))]
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            mine, peer = ours.sample(), stock.sample()
            seen["ours"] += mine
            seen["peer"] += peer
            pairs.append((_percentile(mine, 50), _percentile(peer, 50)))
    more = {
        f"{side}_p{percent}_ms": round(_percentile(values, percent), 2)
        for side, values in seen.items()
        for percent in (50, 99)
    }
    return Result.of_pairs("latency", pairs, "ms", samples=len(seen["ours"]), **more)


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1]
