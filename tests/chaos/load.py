"""A load of tasks under which something is broken again and again; what the transport's scenarios share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from random import Random
from typing import Any

from orchestrator.celery import get_app
from tests.chaos.agenda import Agenda
from tests.chaos.catalogue import Orders, Report
from tests.support import environment, far_side, inflight, labour
from tests.support.broker import Broker
from tests.support.process import Process
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Worker

TASKS = 300
#: One worker of each kind that has processes.
POOLS = ("swarm", "prefork")
#: Seconds; short, so that recovery can be watched.
LEASE = 3.0
#: Seconds to wait for the end: at least, and for each task.
PATIENCE = (120.0, 0.02)
PROCESSES = 2
#: How long tasks take, in seconds: most are short, some are sure to be hit.
LENGTHS = (0.02, 0.05, 0.1, 0.3, 2.0)

#: Breaks something once; told what there is.
Blow = Callable[[Broker, list[Worker], Random], None]


def play(
    name: str, orders: Orders, blow: Blow, every: tuple[float, float], *, may_repeat: bool = False, **more: Any
) -> Report:
    """Publish, break things while it is worked off, count.

    Args:
        every: shortest and longest pause between two blows, in seconds.
        may_repeat: whether a task that was begun may run again.
    """
    env = {**labour.ENV, "ORCHESTRATOR_TEST_LEASE": str(LEASE), "ORCHESTRATOR_TEST_DELIVERIES": "1000"}
    broker, dice = environment.world().broker, orders.dice()
    broker.client.config_set("appendfsync", "always")
    keys = [f"task-{number}" for number in range(orders.tasks or TASKS)]
    get_app().set_default()
    with ExitStack() as stack:
        workers = [Worker(pool=pool, concurrency=PROCESSES, env=env) for pool in POOLS]
        start_together(stack, workers)
        for key, seconds in zip(keys, _lengths(len(keys), orders.seconds, dice), strict=True):
            labour.work.delay(key, seconds)
        blows = _trouble(orders.seconds, dice, every, lambda: blow(broker, workers, dice))
        begun = time.monotonic()
        for worker in workers:
            if not worker.running:
                worker.start()
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not left(broker) and not _unfinished(keys), PATIENCE[0] + PATIENCE[1] * len(keys))
        recovery = time.monotonic() - begun
        counts = far_side.counts()
        return Report(
            name=name,
            seed=orders.seed,
            asked=len(keys),
            took_effect=sum(1 for key in keys if counts[f"{key}:end"]),
            lost=len(_unfinished(keys)),
            doubled=sum(1 for key in keys if counts[f"{key}:end"] > 1),
            leaked=sum(left(broker).values()),
            recovery_s=round(recovery, 2),
            may_repeat=may_repeat,
            more={
                "blows": blows,
                "started_again": sum(1 for key in keys if counts[f"{key}:start"] > 1),
                "workers_gone": sum(1 for worker in workers if not worker.running),
                **more,
            },
        )


def start_together(stack: ExitStack, processes: Sequence[Process]) -> None:
    """Start processes at the same time; they end with the stack."""
    already = [process.launch() for process in processes]
    for process, before in zip(processes, already, strict=True):
        stack.enter_context(process).await_ready(before)


def _lengths(count: int, seconds: float, dice: Random) -> list[float]:
    """Return how long each task takes; where there are many, fewer are long, to last about as long as the trouble.

    Half of the time that there is goes to the longest ones: whatever is broken then, some of them are hit.
    """
    *short, longest = LENGTHS
    there_is = 0.8 * seconds * PROCESSES * len(POOLS)
    if count * sum(LENGTHS) / len(LENGTHS) <= there_is:
        return [dice.choice(LENGTHS) for _ in range(count)]
    share = there_is / 2 / longest / count
    stretch = min(1.0, there_is / 2 / (count * sum(short) / len(short)))
    return [longest if dice.random() < share else dice.choice(short) * stretch for _ in range(count)]


def _trouble(seconds: float, dice: Random, every: tuple[float, float], blow: Callable[[], None]) -> int:
    agenda, end, blows = Agenda(), time.monotonic() + seconds, 0

    def strike() -> None:
        nonlocal blows
        blow()
        blows += 1
        if time.monotonic() < end:
            agenda.after(dice.uniform(*every), strike)

    agenda.after(dice.uniform(*every), strike)
    agenda.run()
    return blows


def left(broker: Broker, *more: str) -> Mapping[str, int]:
    """Return what is not done with, by kind, in the default queue and those that are named."""
    queued = sum(int(broker.client.llen(queue)) for queue in ("celery", *more))
    found = {"queued": queued, "in_flight": inflight.count(broker.client)}
    return {kind: count for kind, count in found.items() if count}


def _unfinished(keys: list[str]) -> list[str]:
    counts = far_side.counts()
    return [key for key in keys if not counts[f"{key}:end"]]
