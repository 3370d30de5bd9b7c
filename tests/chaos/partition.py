"""``partition``: some workers and a producer are cut off from the broker for longer than a lease; others go on.

What ran there runs elsewhere once its lease has run out, while the ones that are cut off
still run it. When the network is back, what they tell the broker is too late: it is
refused, and a far side that looks at fencing numbers refuses what they tell it. Half of
the times the network then carries all that it had kept, half of the times the old
connections stay dead without a word.
"""

from __future__ import annotations

import contextlib
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from orchestrator.celery import get_app
from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.chaos.runs import Runs, read_runs
from tests.support import environment, labour
from tests.support.process import Process
from tests.support.proxy import Proxy
from tests.support.wait import NeverHappened, eventually, pause
from tests.support.worker import Worker, platform_env

TASKS = 200
LENGTHS = (0.02, 0.05, 0.1, 0.3)
#: Outlasts the cut, on both sides.
LONG = load.LEASE + 5
#: How long the network is cut, in seconds.
CUT = (load.LEASE + 2, load.LEASE + 4)
#: What is long goes to those who will be cut off.
FAR = "far"
#: Processes of a worker on either side: those that go on must have room for what others lose.
HERE, THERE = 4, 2
#: A lease is renewed each quarter of it, so this much of it is left at any time, if the machine keeps up.
LEFT = load.LEASE / 2
#: Tasks that end shortly before the cut may not have been acknowledged.
UNTOLD = 0.5
PATIENCE = 60.0


def run(orders: Orders) -> Report:
    """Play the scenario. ``slowest_recovery_s`` counts from the cut, and includes the lease."""
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        return play.settle()


@dataclass
class _Cut:
    at: float
    healed: float
    #: Processes behind the cut.
    pids: list[int]


def _lost_by(cut: _Cut, runs: Runs) -> bool:
    """Whether a task was begun behind a cut, and its end could not be told."""
    return any(
        start["pid"] in cut.pids
        and start["at"] < cut.healed
        and not any(end["pid"] == start["pid"] and end["at"] < cut.at - UNTOLD for end in runs.ends)
        for start in runs.starts
    )


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        self.orders, self.dice = orders, orders.dice()
        self.broker = environment.world().broker
        self.broker.client.config_set("appendfsync", "always")
        get_app().set_default()
        address, _, port = self.broker.url.removesuffix("/0").rpartition(":")
        self.proxy = stack.enter_context(Proxy(int(port)))
        env = {**labour.ENV, "ORCHESTRATOR_TEST_LEASE": str(load.LEASE), "ORCHESTRATOR_TEST_DELIVERIES": "1000"}
        far = {**env, "ORCHESTRATOR_BROKER_URL": f"{address}:{self.proxy.port}/0"}
        queues = ["celery", FAR]
        self.there = [Worker(pool=pool, concurrency=THERE, env=far, queues=queues) for pool in load.POOLS]
        self.here = [Worker(pool=pool, concurrency=HERE, env=env, queues=queues[:1]) for pool in load.POOLS]
        logs = environment.directory() / "logs"
        caller = ["python", "-m", "tests.chaos.caller", "behind"]
        self.caller = Process(caller, name="caller", directory=logs, env=platform_env(far), ready='"taken": true')
        load.start_together(stack, [*self.there, *self.here, self.caller])
        self.keys = [f"task-{number}" for number in range(orders.tasks or TASKS)]
        self.long: list[str] = []
        self.cuts: list[_Cut] = []

    def trouble(self) -> None:
        """Publish, and cut the network again and again."""
        end = time.monotonic() + self.orders.seconds
        for key in self.keys:
            labour.work.delay(key, self.dice.choice(LENGTHS))
        while True:
            self._cut(late=len(self.cuts) % 2 == 0)
            if time.monotonic() > end:
                return
            pause(self.dice.uniform(1.0, 3.0))

    def _cut(self, *, late: bool) -> None:
        """Cut while workers there run something long, and heal."""
        for worker in self.there:
            eventually(lambda worker=worker: self._runs_long(worker) or self._publish_long(), PATIENCE, most=1.0)
        pids = [pid for worker in self.there for pid in worker.pool_children()]
        at = time.time()
        self.proxy.cut()
        self._tell_here("add_consumer")
        pause(self.dice.uniform(*CUT))
        self.cuts.append(_Cut(at, time.time(), pids))
        self.proxy.heal(late=late)
        self._tell_here("cancel_consumer")

    def _tell_here(self, command: str) -> None:
        """Have the workers that go on take what is meant for the others, or leave it to them."""
        nodes = [worker.node for worker in self.here]
        send = getattr(get_app().control, command)
        eventually(lambda: len(send(FAR, destination=nodes, reply=True, timeout=2, limit=len(nodes))) == len(nodes), 30)

    def _publish_long(self) -> None:
        """With and without a key by turns."""
        key = f"long-{len(self.long)}"
        self.long.append(key)
        (labour.work, labour.guarded)[len(self.long) % 2].apply_async((key, LONG), queue=FAR)

    def _runs_long(self, worker: Worker) -> bool:
        """Whether a worker has something to do for longer than the cut may last."""
        mine, runs = set(worker.pool_children()), read_runs()
        since = time.time() - (LONG - CUT[1])
        return any(start["pid"] in mine and start["at"] > since for key in self.long for start in runs[key].starts)

    def settle(self) -> Report:
        """Wait for every end, and count."""
        begun = time.monotonic()
        self.caller.stop()
        tries = [json.loads(line) for line in self.caller.log.splitlines()]
        asked = [*self.keys, *self.long, *(one["key"] for one in tries if one["taken"])]
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not load.left(self.broker, FAR) and not self._unfinished(asked), 2 * PATIENCE)
        recovery, runs = time.monotonic() - begun, read_runs()
        victims = [(key, cut) for cut in self.cuts for key in asked if _lost_by(cut, runs[key])]
        recovered = [(runs[key].elsewhere(cut.pids, cut.at), cut) for key, cut in victims]
        waits = [at - cut.at for at, cut in recovered if at is not None]
        refused = [one["took"] for one in tries if not one["taken"]]
        repeated = [key for key in asked if len(runs[key].ends) > 1]
        explained = {key for key, _ in victims}
        wrong = {key: [*runs[key].starts, *runs[key].ends] for key in repeated if key not in explained}
        return Report(
            name="partition",
            seed=self.orders.seed,
            asked=len(asked),
            took_effect=sum(1 for key in asked if runs[key].ends),
            lost=len(self._unfinished(asked)),
            # What ran past its lease may; nothing else.
            doubled=len(wrong),
            leaked=sum(load.left(self.broker, FAR).values()),
            recovery_s=round(recovery, 2),
            more={
                "cuts": len(self.cuts),
                "overlapped": len(repeated),
                "recovered": len(waits),
                "slowest_recovery_s": round(max(waits, default=0.0), 2),
                "within_s": load.LEASE + 5,
                "taken_over_early": sum(1 for wait in waits if wait < LEFT),
                "stale_refused": sum(_stale(runs[key])[0] for key in self.long),
                "stale_let_in": sum(_stale(runs[key])[1] for key in self.long),
                "told_by": sum("could not renew its lease" in worker.log for worker in self.there),
                "producer_refused": len(refused),
                "slowest_refusal_s": round(max(refused, default=0.0), 2),
                "workers_gone": sum(1 for worker in (*self.here, *self.there) if not worker.running),
                **({"wrong": wrong, "cut": [asdict(cut) for cut in self.cuts]} if wrong else {}),
            },
        )

    @staticmethod
    def _unfinished(asked: list[str]) -> list[str]:
        runs = read_runs()
        return [key for key in asked if not runs[key].ends]


def _stale(runs: Runs) -> tuple[int, int]:
    """Count ends of owners after whom others had begun: of a lower number, who are refused, and the rest."""
    refused = let_in = 0
    for end in runs.ends:
        own = max(
            (one["at"] for one in runs.starts if one["pid"] == end["pid"] and one["at"] <= end["at"]), default=0.0
        )
        later = [one for one in runs.starts if own < one["at"] < end["at"]]
        if end.get("fence") is not None and later:
            is_lower = end["fence"] < max(one["fence"] for one in later)
            refused, let_in = refused + is_lower, let_in + (not is_lower)
    return refused, let_in
