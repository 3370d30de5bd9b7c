"""``bulk_enqueue``: tasks per second of ``delay_many()``, against a loop of plain Celery's ``delay()``."""

from __future__ import annotations

import time
from contextlib import ExitStack

from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.delay_one_by_one import TASKS, ours, plain

MANY = 10_000


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up."""
    pairs: list[tuple[float, float]] = []
    with ExitStack() as stack:
        mine_side, peer_side = stack.enter_context(ours()), stack.enter_context(plain())
        mine_side.rate(1000, "at once")
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            peer_first = len(pairs) % 2
            peer = peer_side.rate() if peer_first else 0.0
            mine = mine_side.rate(MANY, "at once")
            pairs.append((mine, peer if peer_first else peer_side.rate()))
    return Result.of_pairs("bulk_enqueue", pairs, "tasks/s", tasks=MANY, peer_tasks=TASKS)
