"""``throughput``: no-op tasks per second of a prefork worker with two processes, ours against the stock transport.

Both sides run the platform with all its defaults (late ack, events, policies); only
``ORCHESTRATOR["TRANSPORT"]`` differs. Both stay up; turns alternate, and a worker that is
stopped while its queue fills works through every turn in the same way.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Self

from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment, inflight
from tests.support.process import ROOT
from tests.support.wait import eventually
from tests.support.worker import Worker, platform_env

PROCESSES = 2
TASKS = 1000
WARM_UP = 200


class Side:
    """One transport under load: a producer and a worker."""

    def __init__(self, transport: str, *, pool: str = "prefork", concurrency: int = PROCESSES) -> None:
        self.queue = f"throughput-{transport}"
        env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.benchmarks.tasks", "ORCHESTRATOR_TRANSPORT": transport}
        self._worker = Worker(pool=pool, concurrency=concurrency, queues=[self.queue], env=env)
        self._env = {key: value for key, value in platform_env(env).items() if value is not None}
        self._client = environment.world().broker.client

    def __enter__(self) -> Self:
        self._worker.start()
        self._producer = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.producer", "orchestrator.celery", self.queue],
            cwd=ROOT,
            env={**self._worker.env, **self._env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rate(WARM_UP)
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.communicate()
        self._worker.stop()

    def rate(self, tasks: int = TASKS) -> float:
        """Fill the queue while the worker is stopped; return the tasks per second of working it off."""
        self._worker.kill_group(signal.SIGSTOP)
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(f"{tasks}\n")
        self._producer.stdin.flush()
        self._producer.stdout.readline()
        self._worker.kill_group(signal.SIGCONT)
        begun = time.monotonic()
        eventually(self._idle, 120, lambda: f"queue {self.queue} worked off\n{self._worker.tail()}")
        return tasks / (time.monotonic() - begun)

    def _idle(self) -> bool:
        return not self._client.llen(self.queue) and not inflight.count(self._client)


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up."""
    pairs: list[tuple[float, float]] = []
    with ExitStack() as stack:
        ours, stock = [stack.enter_context(Side(name)) for name in ("orchestrator", "stock")]
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            if len(pairs) % 2:
                peer, mine = stock.rate(), ours.rate()
            else:
                mine, peer = ours.rate(), stock.rate()
            pairs.append((mine, peer))
    return Result.of_pairs("throughput", pairs, "tasks/s", pool="prefork", processes=PROCESSES, tasks=TASKS)
