"""``worker_kill``: workers get SIGKILL, as a whole or their supervisor alone, one or all at a time, and come again."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import psutil

from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.chaos.runs import read_runs
from tests.support.broker import Broker
from tests.support.wait import eventually
from tests.support.worker import Worker


@dataclass(frozen=True, slots=True)
class _Death:
    at: float
    pids: frozenset[int]


def run(orders: Orders) -> Report:
    """Play the scenario. What ran when its worker died starts again: that is what ``started_again`` counts.

    ``slowest_recovery_s`` counts from a death to the start elsewhere, of what no further death delayed.
    """
    deaths: list[_Death] = []

    def kill(broker: Broker, workers: list[Worker], dice: Random) -> None:
        doomed = workers if dice.random() < 0.3 else [dice.choice(workers)]
        # Prefork's children are listed by their command line, which the dying have no more.
        pids = frozenset(pid for worker in doomed for pid in worker.pool_children())
        for worker in doomed:
            if worker.running:
                _kill(worker, dice)
        deaths.append(_Death(time.time(), pids))
        for worker in doomed:
            worker.launch()

    report = load.play("worker_kill", orders, kill, (1.0, 9.0), may_repeat=True)
    return replace(report, more={**report.more, **_recoveries(deaths)})


def _kill(worker: Worker, dice: Random) -> None:
    if worker.pool == "swarm" and dice.random() < 0.5:
        children = worker.pool_children()
        worker.kill()
        # Without their supervisor they end by themselves.
        eventually(lambda: not any(map(psutil.pid_exists, children)), 2)
    else:
        worker.kill_group()
    worker.wait()


def _recoveries(deaths: list[_Death]) -> dict[str, Any]:
    """Return how long it took until others began what the dead had begun with."""
    undisturbed, disturbed = [0.0], [0.0]
    for runs in read_runs().values():
        for death in deaths:
            ended = {end["pid"] for end in runs.ends}
            if not any(start["pid"] in death.pids and start["pid"] not in ended for start in runs.starts):
                continue
            again = runs.elsewhere(death.pids, death.at)
            if again is not None:
                alone = not any(death.at < other.at < again for other in deaths)
                (undisturbed if alone else disturbed).append(again - death.at)
    return {
        "recovered": len(undisturbed) - 1,
        "slowest_recovery_s": round(max(undisturbed), 2),
        "recovered_after_more_deaths": len(disturbed) - 1,
        "slowest_after_more_deaths_s": round(max(disturbed), 2),
        "within_s": load.LEASE + 5,
    }
