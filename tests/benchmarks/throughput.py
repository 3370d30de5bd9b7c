"""``throughput``: no-op tasks per second of a prefork worker with two processes, ours against plain Celery.

Ours is the platform with all its defaults, the peer plain Celery on kombu's own transport
with the same settings (late ack, events). Both stay up; turns alternate, and a worker that
is stopped while its queue fills works through every turn in the same way.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Self

from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment, inflight
from tests.support.process import ROOT, Process
from tests.support.wait import eventually
from tests.support.worker import Worker, platform_env

PROCESSES = 2
TASKS = 1000
WARM_UP = 200


class Side:
    """One worker under load, and a producer."""

    def __init__(self, worker: Process, module: str, queue: str) -> None:
        self.queue = queue
        self._worker = worker
        self._module = module
        self._client = environment.world().broker.client

    def __enter__(self) -> Self:
        self._worker.start()
        self._producer = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.producer", self._module, self.queue],
            cwd=ROOT,
            env=self._worker.env,
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


def ours_worker(env: Mapping[str, str | None] | None = None) -> Worker:
    """Return the platform's worker with its defaults."""
    return Worker(
        concurrency=PROCESSES,
        queues=["ours"],
        env={"ORCHESTRATOR_TEST_IMPORTS": "tests.benchmarks.tasks", **(env or {})},
    )


def ours() -> Side:
    """Return the platform with its defaults."""
    return Side(ours_worker(), "orchestrator.celery", "ours")


def plain_worker(env: Mapping[str, str | None] | None = None) -> Process:
    """Return plain Celery with the same settings: late ack, events, prefetch 1."""
    command = ["python", "-m", "celery", "-A", "tests.benchmarks.plain", "worker", "-P", "prefork"]
    return Process(
        [*command, "-c", str(PROCESSES), "-Q", "plain", "-n", "plain@test", "-l", "INFO"],
        name="plain",
        directory=environment.directory() / "logs",
        env=platform_env({"DJANGO_SETTINGS_MODULE": "tests.benchmarks.plain_settings", **(env or {})}),
        ready=r"plain@test ready",
    )


def plain() -> Side:
    """Return plain Celery."""
    return Side(plain_worker(), "tests.benchmarks.plain", "plain")


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up."""
    pairs: list[tuple[float, float]] = []
    with ExitStack() as stack:
        mine_side, peer_side = [stack.enter_context(side) for side in (ours(), plain())]
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            if len(pairs) % 2:
                peer, mine = peer_side.rate(), mine_side.rate()
            else:
                mine, peer = mine_side.rate(), peer_side.rate()
            pairs.append((mine, peer))
    return Result.of_pairs("throughput", pairs, "tasks/s", pool="prefork", processes=PROCESSES, tasks=TASKS)
