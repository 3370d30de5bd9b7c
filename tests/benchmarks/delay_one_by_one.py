"""``delay_one_by_one``: tasks per second that one process publishes one after another, ours against plain Celery."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Self

from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment
from tests.support.process import ROOT
from tests.support.worker import platform_env

TASKS = 500
WARM_UP = 50


class Producer:
    """One app's producer in a process of its own."""

    def __init__(self, module: str, queue: str = "", **env: str) -> None:
        inherited = {key: value for key, value in platform_env(env).items() if value is not None}
        self.queue = queue or f"one-by-one-{module}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.producer", module, self.queue],
            cwd=ROOT,
            env={**os.environ, **inherited, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        self.rate(WARM_UP)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def rate(self, tasks: int = TASKS, how: str = "") -> float:
        """Publish; return tasks per second."""
        seconds = self.publish(tasks, how)
        # A long queue costs nothing, but memory is shared.
        environment.world().broker.client.delete(self.queue)
        return tasks / seconds

    def publish(self, tasks: int, how: str = "") -> float:
        """Publish; return the seconds that it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{tasks} {how}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline().split()[1])


def ours(queue: str = "") -> Producer:
    """Return the platform's producer, with all defaults."""
    return Producer("orchestrator.celery", queue, ORCHESTRATOR_TEST_IMPORTS="tests.benchmarks.tasks")


def plain() -> Producer:
    """Return plain Celery's."""
    return Producer("tests.benchmarks.plain", DJANGO_SETTINGS_MODULE="tests.benchmarks.plain_settings")


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up."""
    pairs: list[tuple[float, float]] = []
    with ExitStack() as stack:
        mine_side, peer_side = stack.enter_context(ours()), stack.enter_context(plain())
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            if len(pairs) % 2:
                peer, mine = peer_side.rate(), mine_side.rate()
            else:
                mine, peer = mine_side.rate(), peer_side.rate()
            pairs.append((mine, peer))
    return Result.of_pairs("delay_one_by_one", pairs, "tasks/s", tasks=TASKS)
