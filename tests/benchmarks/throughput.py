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
from collections.abc import Callable, Mapping, Sequence
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
#: Tasks a turn where nothing else is said.
TURN = 4000
#: Tasks a turn: about a second's work, so that beginning and end of a turn do not count.
TASKS = {"swarm": 6000, "prefork": 2000, "plain": 1000}
WARM_UP = 500


class Side:
    """Workers under load, and a producer: a program that answers each number on its input when so many are sent.

    Args:
        workers: all of one group; what takes tasks.
        producer: command; has the environment of the first worker.
        idle: whether nothing is left to do.
        turn: tasks a turn.
    """

    def __init__(
        self, workers: Sequence[Process], producer: Sequence[str], idle: Callable[[], bool], turn: int = TURN
    ) -> None:
        self._workers = workers
        self._turn = turn
        self._command = producer
        self._idle = idle

    def __enter__(self) -> Self:
        for worker in self._workers:
            worker.start()
        self._producer = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._workers[0].env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rate(WARM_UP)
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.communicate()
        for worker in self._workers:
            worker.stop()

    def rate(self, tasks: int = 0) -> float:
        """Fill the queue while the worker is stopped; return the tasks per second of working it off."""
        tasks = tasks or self._turn
        self._signal(signal.SIGSTOP)
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(f"{tasks}\n")
        self._producer.stdin.flush()
        self._producer.stdout.readline()
        self._signal(signal.SIGCONT)
        begun = time.monotonic()
        # Short looks: a pause of the usual length would be a tenth of the time of the fastest.
        eventually(self._idle, 120, lambda: f"all worked off\n{self._workers[0].tail()}", most=0.01)
        return tasks / (time.monotonic() - begun)

    def pss(self) -> float:
        """Return the MB of memory that the worker's processes use, shared pages counted in parts."""
        pids = [pid for worker in self._workers for pid in (worker.pid, *worker.children())]
        return sum(psutil.Process(pid).memory_full_info().pss for pid in pids) / 1e6

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            worker.kill_group(number)


def celery_side(worker: Process, module: str, queue: str) -> Side:
    """Return a worker of Celery's, and its producer, with one queue for themselves."""
    client = environment.world().broker.client
    return Side(
        [worker],
        [sys.executable, "-m", "tests.benchmarks.producer", module, queue],
        lambda: not client.llen(queue) and not inflight.count(client),
        TASKS.get(queue, TURN),
    )


def ours_worker(pool: str = "swarm", queue: str = "ours", env: Mapping[str, str | None] | None = None) -> Worker:
    """Return the platform's worker with its defaults."""
    return Worker(
        pool=pool,
        concurrency=PROCESSES,
        queues=[queue],
        env={"ORCHESTRATOR_TEST_IMPORTS": "tests.benchmarks.tasks", **(env or {})},
    )


def ours(pool: str) -> Side:
    """Return the platform with its defaults."""
    return celery_side(ours_worker(pool, pool), "orchestrator.celery", pool)


def plain_worker(env: Mapping[str, str | None] | None = None, queue: str = "plain") -> Process:
    """Return plain Celery with the same settings: late ack, events; its own prefetch."""
    command = ["python", "-m", "celery", "-A", "tests.benchmarks.plain", "worker", "-P", "prefork"]
    return Process(
        [*command, "-c", str(PROCESSES), "-Q", queue, "-n", "plain@test", "-l", "INFO"],
        name="plain",
        directory=environment.directory() / "logs",
        env=platform_env({"DJANGO_SETTINGS_MODULE": "tests.benchmarks.plain_settings", **(env or {})}),
        ready=r"plain@test ready",
    )


def plain() -> Side:
    """Return plain Celery."""
    return celery_side(plain_worker(), "tests.benchmarks.plain", "plain")


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
