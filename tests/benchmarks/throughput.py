"""``throughput``: no-op tasks per second of a worker with two processes, ours against plain Celery.

Ours is the platform with all its defaults: the swarm, and beside it, under ``more``, a
prefork worker. The peer is plain Celery's prefork on kombu's own transport with the same
settings (late ack, events). All stay up; turns alternate, and a worker that is stopped
while its queue fills works through every turn in the same way.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from statistics import median
from typing import Self

import psutil

from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment, inflight
from tests.support.process import ROOT, Process
from tests.support.wait import eventually
from tests.support.worker import Worker, platform_env

PROCESSES = 2
#: Tasks a turn: about a second's work, so that beginning and end of a turn do not count.
TASKS = {"swarm": 6000, "prefork": 2000, "plain": 1000}
WARM_UP = 500


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

    def rate(self, tasks: int = 0) -> float:
        """Fill the queue while the worker is stopped; return the tasks per second of working it off."""
        tasks = tasks or TASKS[self.queue]
        self._worker.kill_group(signal.SIGSTOP)
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(f"{tasks}\n")
        self._producer.stdin.flush()
        self._producer.stdout.readline()
        self._worker.kill_group(signal.SIGCONT)
        begun = time.monotonic()
        # Short looks: a pause of the usual length would be a tenth of the time of the fastest.
        eventually(self._idle, 120, lambda: f"queue {self.queue} worked off\n{self._worker.tail()}", most=0.01)
        return tasks / (time.monotonic() - begun)

    def pss(self) -> float:
        """Return the MB of memory that the worker's processes use, shared pages counted in parts."""
        pids = [self._worker.pid, *self._worker.children()]
        return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 1e6

    def _idle(self) -> bool:
        return not self._client.llen(self.queue) and not inflight.count(self._client)


def ours(pool: str) -> Side:
    """Return the platform with its defaults."""
    env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.benchmarks.tasks"}
    return Side(Worker(pool=pool, concurrency=PROCESSES, queues=[pool], env=env), "orchestrator.celery", pool)


def plain() -> Side:
    """Return plain Celery with the same settings: late ack, events, prefetch 1."""
    command = ["python", "-m", "celery", "-A", "tests.benchmarks.plain", "worker", "-P", "prefork"]
    worker = Process(
        [*command, "-c", str(PROCESSES), "-Q", "plain", "-n", "plain@test", "-l", "INFO"],
        name="plain",
        directory=environment.directory() / "logs",
        env=platform_env({"DJANGO_SETTINGS_MODULE": "tests.benchmarks.plain_settings"}),
        ready=r"plain@test ready",
    )
    return Side(worker, "tests.benchmarks.plain", "plain")


def run(budget: Budget) -> Result:
    """Measure rounds until the budget is used up."""
    rounds: list[dict[str, float]] = []
    with ExitStack() as stack:
        made = {"swarm": ours("swarm"), "prefork": ours("prefork"), "plain": plain()}
        sides = {name: stack.enter_context(side) for name, side in made.items()}
        memory = {name: side.pss() for name, side in sides.items()}
        deadline = time.monotonic() + budget.seconds
        while len(rounds) < budget.runs and (not rounds or time.monotonic() < deadline):
            order = list(sides) if len(rounds) % 2 else list(reversed(sides))
            rates = {name: sides[name].rate() for name in order}
            rounds.append(rates)
    return Result.of_pairs(
        "throughput",
        [(each["swarm"], each["plain"]) for each in rounds],
        "tasks/s",
        pool="swarm",
        processes=PROCESSES,
        tasks=TASKS,
        prefork=round(median(each["prefork"] for each in rounds), 2),
        prefork_ratio=round(median(each["prefork"] / each["plain"] for each in rounds), 4),
        pss_mb={name: round(size, 1) for name, size in memory.items()},
        pss_to_prefork=round(memory["swarm"] / memory["prefork"], 4),
    )
