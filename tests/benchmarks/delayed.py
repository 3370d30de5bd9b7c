"""``delayed``: MB by which a worker grows while tasks wait for their time, against plain Celery's worker."""

from __future__ import annotations

from contextlib import ExitStack

import psutil

from tests.benchmarks import delay_one_by_one, throughput
from tests.benchmarks.catalogue import Budget, Result
from tests.support import environment, inflight
from tests.support.process import Process
from tests.support.wait import eventually, pause

#: Tasks that wait; plain Celery's worker, which holds them all, gets fewer, and its growth is scaled up.
DELAYED, PEERS = 100_000, 2_000
WARM_UP = 500
#: Seconds for which a worker is left alone with them.
SETTLE = 3.0


def run(budget: Budget) -> Result:
    """Measure once: the figure is no matter of the weather. One run, which only shows the form, has fewer."""
    many = DELAYED if budget.runs > 1 else PEERS
    with ExitStack() as stack:
        mine_side, peer_side = (
            stack.enter_context(delay_one_by_one.ours("ours")),
            stack.enter_context(delay_one_by_one.plain()),
        )
        mine = _growth(stack.enter_context(throughput.ours_worker(queue=mine_side.queue)), mine_side, many, "at once")
        peer = _growth(stack.enter_context(throughput.plain_worker(queue=peer_side.queue)), peer_side, PEERS, "")
    return Result.of_pairs("delayed", [(mine, peer * many / PEERS)], "MB", tasks=many, peer_tasks=PEERS)


def _growth(worker: Process, producer: delay_one_by_one.Producer, tasks: int, how: str) -> float:
    client = environment.world().broker.client
    # What a worker's first tasks bring with them is no matter here.
    producer.publish(WARM_UP, "at once" if how else "")
    eventually(lambda: not client.llen(producer.queue) and not inflight.count(client), 60, worker.tail)
    pause(SETTLE)
    before = _memory(worker)
    producer.publish(tasks, f"{how} later".strip())
    eventually(lambda: client.zcard("orchestrator:delayed") + client.hlen("unacked") >= tasks, 120, worker.tail)
    pause(SETTLE)
    return _memory(worker) - before


def _memory(worker: Process) -> float:
    """Return the MB that a worker's processes use, shared pages counted in parts."""
    return sum(psutil.Process(pid).memory_full_info().pss for pid in (worker.pid, *worker.children())) / 1e6
