"""``deploys``: workers get SIGTERM under load, one after another, and are started again."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from random import Random

from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.worker import Worker


def run(orders: Orders) -> Report:
    """Play the scenario. ``slowest_exit_s`` counts from the signal, or from the end of the worker's last task."""
    exits: dict[str, list[float]] = {}

    def deploy(broker: Broker, workers: list[Worker], dice: Random) -> None:
        worker = dice.choice(workers)
        pids = set(worker.pool_children())
        asked = time.time()
        worker.kill(signal.SIGTERM)
        code = worker.wait()
        gone = time.time()
        assert code == 0, worker.tail()
        ends = [effect["at"] for effect in far_side.effects() if effect["pid"] in pids and effect["at"] <= gone]
        exits.setdefault(worker.pool, []).append(gone - max([asked, *ends]))
        # A deploy waits until the new one is there.
        worker.start()

    report = load.play("deploys", orders, deploy, (0.5, 2.0))
    slowest = {pool: round(max(seconds), 2) for pool, seconds in exits.items()}
    return replace(report, more={**report.more, "slowest_exit_s": max(slowest.values()), "by_pool": slowest})
