"""``memory_per_message``: bytes of the broker's memory that one waiting no-op takes, against plain Celery."""

from __future__ import annotations

from contextlib import ExitStack

from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.delay_one_by_one import Producer, ours, plain
from tests.support import environment

TASKS = 2000
MANY = 20_000


def run(budget: Budget) -> Result:
    """Measure; memory does not depend on the weather, so a few runs are enough. Less is better."""
    with ExitStack() as stack:
        mine_side, peer_side = stack.enter_context(ours()), stack.enter_context(plain())
        pairs = [(_bytes(mine_side, TASKS), _bytes(peer_side, TASKS)) for _ in range(min(budget.runs, 5))]
        at_once = _bytes(mine_side, MANY, "at once")
    return Result.of_pairs("memory_per_message", pairs, "bytes", tasks=TASKS, at_once=round(at_once, 1))


def _bytes(side: Producer, tasks: int, how: str = "") -> float:
    client = environment.world().broker.client
    before = client.info("memory")["used_memory"]
    side.publish(tasks, how)
    used = client.info("memory")["used_memory"] - before
    client.delete(side.queue)
    return float(used) / tasks
