"""``worker_kill``: workers get SIGKILL, as a whole or their supervisor alone, one or all at a time, and come again."""

from __future__ import annotations

from random import Random

import psutil

from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.support.broker import Broker
from tests.support.wait import eventually
from tests.support.worker import Worker


def run(orders: Orders) -> Report:
    """Play the scenario. What ran when its worker died starts again: that is what ``started_again`` counts."""
    return load.play("worker_kill", orders, _kill, (1.0, 4.0), may_repeat=True)


def _kill(broker: Broker, workers: list[Worker], dice: Random) -> None:
    doomed = workers if dice.random() < 0.3 else [dice.choice(workers)]
    for worker in doomed:
        if worker.running:
            if worker.pool == "swarm" and dice.random() < 0.5:
                children = worker.pool_children()
                worker.kill()
                # Without their supervisor they end by themselves.
                eventually(lambda pids=children: not any(map(psutil.pid_exists, pids)), 2)
            else:
                worker.kill_group()
            worker.wait()
    for worker in doomed:
        worker.launch()
