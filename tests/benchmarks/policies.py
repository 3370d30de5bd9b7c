"""``policies``: throughput of a no-op under a policy, against the same no-op without it.

One worker with one pool process works off both, in turns; it is stopped while its queue
fills, so every turn begins with all its messages there. Ours is the task with the policy,
peer the same task without.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from statistics import median
from typing import Any
from uuid import uuid4

from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment
from tests.support.worker import Worker

QUEUE = "policies"
TASKS = 400
WARM_UP = 200


def run(budget: Budget) -> Result:
    """Measure pairs of turns until the budget is used up."""
    from tests.benchmarks.policy_tasks import MEASURED, plain

    imports = "tests.benchmarks.policy_tasks"
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURED}
    with Worker(queues=[QUEUE], env={"ORCHESTRATOR_TEST_IMPORTS": imports}) as worker:
        for one in (plain, *MEASURED.values()):
            _throughput(worker, one, WARM_UP)
        deadline = time.monotonic() + budget.seconds
        for number in range(budget.runs):
            if number and time.monotonic() > deadline:
                break
            for name, under_policy in MEASURED.items():
                if number % 2:
                    peer, ours = _throughput(worker, plain, TASKS), _throughput(worker, under_policy, TASKS)
                else:
                    ours, peer = _throughput(worker, under_policy, TASKS), _throughput(worker, plain, TASKS)
                pairs[name].append((ours, peer))
    everything = [pair for measured in pairs.values() for pair in measured]
    return Result.of_pairs("policies", everything, "tasks/s", by_policy=_by_policy(pairs))


def _by_policy(pairs: Mapping[str, list[tuple[float, float]]]) -> dict[str, float]:
    return {name: round(median(ours / peer for ours, peer in measured), 4) for name, measured in pairs.items()}


def _throughput(worker: Worker, task: Any, count: int) -> float:
    """Return the tasks per second at which a worker works off ``count`` calls, each with a key of its own."""
    from tests.benchmarks.policy_tasks import mark

    client = environment.world().broker.client
    turn = uuid4().hex
    worker.kill_group(signal.SIGSTOP)
    for number in range(count):
        task.apply_async((f"{turn}-{number}",), queue=QUEUE)
    # Messages of one queue keep their order, and one process takes them one by one.
    mark.apply_async((turn,), queue=QUEUE)
    begun = time.monotonic()
    worker.kill_group(signal.SIGCONT)
    assert client.blpop([turn], timeout=120), worker.tail()
    return count / (time.monotonic() - begun)
