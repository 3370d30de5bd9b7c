"""``policies``: throughput of a no-op under a policy, against the same no-op without it.

A worker of each pool, with two processes, works off both, in turns; it is stopped while
its queue fills, so every turn begins with all its messages there. Ours is the task with
the policy, peer the same task without, on the same worker.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median
from typing import Any
from uuid import uuid4

from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.throughput import PROCESSES
from tests.support import environment, inflight
from tests.support.wait import eventually
from tests.support.worker import Worker

#: Tasks a turn, by pool: about a second's work, so that beginning and end of a turn do not count.
TASKS = {"prefork": 1000, "swarm": 3000}
WARM_UP = 200
#: Seconds of budget below which a turn has fewer, in proportion: to see that it works, not to measure.
WHOLE = 60.0


def run(budget: Budget) -> Result:
    """Measure pairs of turns until the budget is used up."""
    from tests.benchmarks.policy_tasks import MEASURED, plain

    pairs: dict[str, dict[str, list[tuple[float, float]]]] = {pool: {name: [] for name in MEASURED} for pool in TASKS}
    part = min(1.0, budget.seconds / WHOLE)
    tasks = {pool: max(50, int(count * part)) for pool, count in TASKS.items()}
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(pool)) for pool in TASKS]
        for worker in workers:
            for one in (plain, *MEASURED.values()):
                _throughput(worker, one, max(50, int(WARM_UP * part)))
        deadline = time.monotonic() + budget.seconds
        for number in range(budget.runs):
            if number and time.monotonic() > deadline:
                break
            for worker in workers:
                count = tasks[worker.pool]
                for name, under_policy in MEASURED.items():
                    order = (under_policy, plain) if number % 2 else (plain, under_policy)
                    rates = {task: _throughput(worker, task, count) for task in order}
                    pairs[worker.pool][name].append((rates[under_policy], rates[plain]))
    everything = [pair for by_policy in pairs.values() for measured in by_policy.values() for pair in measured]
    return Result.of_pairs(
        "policies",
        everything,
        "tasks/s",
        processes=PROCESSES,
        tasks=tasks,
        by_policy={pool: _ratios(measured) for pool, measured in pairs.items()},
        rates={pool: _rates(measured) for pool, measured in pairs.items()},
    )


def _worker(pool: str) -> Worker:
    imports = "tests.benchmarks.policy_tasks"
    return Worker(pool=pool, concurrency=PROCESSES, queues=[_queue(pool)], env={"ORCHESTRATOR_TEST_IMPORTS": imports})


def _queue(pool: str) -> str:
    return f"policies-{pool}"


def _ratios(pairs: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    return {name: round(median(ours / peer for ours, peer in measured), 4) for name, measured in pairs.items()}


def _rates(pairs: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    return {name: round(median(ours for ours, _ in measured), 1) for name, measured in pairs.items()}


def _throughput(worker: Worker, task: Any, count: int) -> float:
    """Return the tasks per second at which a worker works off ``count`` calls, each with a key of its own."""
    client, queue, turn = environment.world().broker.client, _queue(worker.pool), uuid4().hex
    worker.kill_group(signal.SIGSTOP)
    task.delay_many(((f"{turn}-{number}",) for number in range(count)), queue=queue)
    begun = time.monotonic()
    worker.kill_group(signal.SIGCONT)
    eventually(lambda: not client.llen(queue) and not inflight.count(client), 120, worker.tail, most=0.01)
    return count / (time.monotonic() - begun)
