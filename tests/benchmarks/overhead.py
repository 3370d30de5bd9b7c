"""``overhead``: CPU that the platform's default policies add to one no-op task.

Producer and worker together, user and system time, against a plain Celery app with
the same settings (late ack, events, JSON, ignored result) on the same broker and the
same pool. Both sides stay up; short turns alternate between them, so that both see
the same weather on the machine, and a worker that is stopped while its queue fills
works through every turn in the same way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Self

from tests.benchmarks import cpu
from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment, inflight
from tests.support.process import ROOT, Process
from tests.support.wait import eventually
from tests.support.worker import Worker, platform_env

POOL = "prefork"
WARM_UP = 300
#: Short turns, many of them: what disturbs the machine lasts longer than a turn and so hits both sides.
TASKS = 50
ALTERNATIONS = 10


class Side:
    """One app under load: a producer and a worker with one pool process."""

    def __init__(self, worker: Process, app_module: str, queue: str, env: dict[str, str]) -> None:
        self.queue = queue
        self._worker = worker
        self._producer = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.producer", app_module, queue],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._client = environment.world().broker.client

    def __enter__(self) -> Self:
        self._worker.start()
        self.measure(WARM_UP)
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.communicate()
        self._worker.stop()

    def measure(self, tasks: int) -> tuple[float, float]:
        """Send and work off ``tasks`` no-ops; return the producer's and the worker's µs of CPU per task."""
        self._worker.kill_group(signal.SIGSTOP)
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(f"{tasks}\n")
        self._producer.stdin.flush()
        producing = float(self._producer.stdout.readline().split()[0])
        pids = [self._worker.pid, *self._worker.children()]
        before = cpu.used(pids)
        self._worker.kill_group(signal.SIGCONT)
        eventually(self._idle, 120, lambda: f"queue {self.queue} worked off\n{self._worker.tail()}")
        working = cpu.used(pids) - before
        return producing / tasks * 1e6, working / tasks * 1e6

    def _idle(self) -> bool:
        return not self._client.llen(self.queue) and not inflight.count(self._client)


def sides() -> tuple[Side, Side]:
    """Return ours and the plain peer, not yet started."""
    inherited = {key: value for key, value in platform_env().items() if value is not None}
    ours_env = {**inherited, "DJANGO_SETTINGS_MODULE": "tests.benchmarks.ours_settings"}
    plain_env = {**inherited, "DJANGO_SETTINGS_MODULE": "tests.benchmarks.plain_settings"}
    ours = Worker(pool=POOL, queues=["ours"], env=ours_env)
    command = ["python", "-m", "celery", "-A", "tests.benchmarks.plain", "worker", "-P", POOL, "-c", "1"]
    plain = Process(
        [*command, "-Q", "plain", "-n", "plain@test", "-l", "INFO"],
        name="plain",
        directory=environment.directory() / "logs",
        env=plain_env,
        ready=r"plain@test ready",
    )
    return (
        Side(ours, "orchestrator.celery", "ours", {**ours.env}),
        Side(plain, "tests.benchmarks.plain", "plain", {**plain.env}),
    )


def run(budget: Budget) -> Result:
    """Measure runs until the budget is used up. A run is the median of some alternations."""
    seen: list[Run] = []
    with ExitStack() as stack:
        stack.enter_context(_one_cpu())
        ours, plain = [stack.enter_context(side) for side in sides()]
        deadline = time.monotonic() + budget.seconds
        while len(seen) < budget.runs and (not seen or time.monotonic() < deadline):
            seen.append(_run(ours, plain))
    return Result.of_pairs(
        "overhead",
        [(run.ours, run.peer) for run in seen],
        "us CPU/task",
        added_us=round(median(run.added for run in seen), 2),
        # Half of the runs lie between these two.
        added_us_quartiles=_quartiles([run.added for run in seen]),
        added_producer_us=round(median(run.producer for run in seen), 2),
        added_worker_us=round(median(run.worker for run in seen), 2),
    )


@dataclass(frozen=True)
class Run:
    """Medians of one run, in µs of CPU per task; ``added``, by ``producer`` and ``worker``, is what ours adds."""

    ours: float
    peer: float
    added: float
    producer: float
    worker: float


def _run(ours: Side, plain: Side) -> Run:
    pairs = []
    for turn in range(ALTERNATIONS):
        if turn % 2:
            peer, mine = plain.measure(TASKS), ours.measure(TASKS)
        else:
            mine, peer = ours.measure(TASKS), plain.measure(TASKS)
        pairs.append((mine, peer))
    return Run(
        ours=median(sum(mine) for mine, _ in pairs),
        peer=median(sum(peer) for _, peer in pairs),
        added=median(sum(mine) - sum(peer) for mine, peer in pairs),
        producer=median(mine[0] - peer[0] for mine, peer in pairs),
        worker=median(mine[1] - peer[1] for mine, peer in pairs),
    )


def _quartiles(values: list[float]) -> list[float]:
    cuts = quantiles(values, n=4) if len(values) > 1 else values * 3
    return [round(cuts[0], 2), round(cuts[-1], 2)]


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Keep both sides on the same CPU: a pool whose processes wander between CPUs costs by chance."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
