"""``fairness``: how long ten jobs of one tenant take beside another's backlog, against an empty queue (peer).

The ratio is to stay below 2. One worker with two pool processes; jobs take 20 ms.
"""

from __future__ import annotations

import time
from uuid import uuid4

from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment, far_side
from tests.support.wait import eventually
from tests.support.worker import Worker

QUEUE = "fairness"
BACKLOG = 50_000
FEW = 10
SECONDS = 0.02


def run(budget: Budget) -> Result:
    """Measure pairs, the backlog being there for all of the second halves."""
    from orchestrator.celery import get_app
    from tests.support.limited import ENV, shared

    far_side.clear()
    client = environment.world().broker.client
    with Worker(concurrency=2, queues=[QUEUE], env=ENV) as worker:
        _wait_of_few()
        alone = [_wait_of_few() for _ in range(budget.runs)]
        with get_app().producer_or_acquire() as producer:
            for number in range(BACKLOG):
                shared.apply_async((f"busy-{number}", "busy", SECONDS), queue=QUEUE, producer=producer)
        eventually(lambda: far_side.effects()[-1]["key"].startswith("busy"), 60, worker.tail)
        beside = [_wait_of_few() for _ in range(budget.runs)]
        done = sum(effect["key"].startswith("busy") for effect in far_side.effects())
        worker.kill_group()
        worker.wait()
    client.flushall()
    return Result.of_pairs("fairness", list(zip(beside, alone, strict=True)), "s", backlog=BACKLOG, backlog_done=done)


def _wait_of_few() -> float:
    from tests.support.limited import shared

    tenant = uuid4().hex
    begun = time.time()
    for number in range(FEW):
        shared.apply_async((f"{tenant}-{number}", tenant, SECONDS), queue=QUEUE)

    def ends() -> list[float]:
        return [effect["at"] for effect in far_side.effects() if effect["key"].startswith(tenant)]

    eventually(lambda: len(ends()) == FEW, 120)
    return max(ends()) - begun
