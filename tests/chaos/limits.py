"""``limits``: four worker processes under one limit of a hundred a second, and one slot, while workers are killed.

What was granted is read from the log in Redis, what arrived from a far side over HTTP. No
second may hold more than a hundred grants, nobody may be in the slot with another, and the
backlog must not take much longer than its limit allows.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress

from orchestrator.celery import get_app
from tests.chaos.agenda import Agenda
from tests.chaos.catalogue import Orders, Report
from tests.chaos.turnstile import Turnstile
from tests.support import environment, inflight
from tests.support.limited import parked
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Worker

TASKS = 3000
#: Starts a second, as declared by the task; seconds of a lease.
RATE, LEASE = 100, 3.0
WORKERS = 4
#: Tasks that want the one slot, for one under the rate.
ALONE = 0.02
PATIENCE = 60.0


def run(orders: Orders) -> Report:
    """Play the scenario."""
    with ExitStack() as stack:
        return _Play(orders, stack).report()


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        self.orders, self.dice = orders, orders.dice()
        get_app().set_default()
        self.client = environment.world().broker.client
        self.turnstile = stack.enter_context(Turnstile())
        env = {
            "ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks",
            "ORCHESTRATOR_TEST_TURNSTILE": self.turnstile.url,
            "ORCHESTRATOR_TEST_LEASE": str(LEASE),
            "ORCHESTRATOR_TEST_DELIVERIES": "1000",
        }
        pools = [("prefork", "swarm")[number % 2] for number in range(WORKERS)]
        self.workers = [stack.enter_context(Worker(pool=pool, env=env)) for pool in pools]
        self.comers = [f"comer-{number}" for number in range(orders.tasks or TASKS)]
        self.loners = [f"loner-{number}" for number in range(max(5, int(len(self.comers) * ALONE)))]
        self.grants: dict[bytes, float] = {}
        self._over = threading.Event()
        stack.callback(self._over.set)
        threading.Thread(target=self._watch, daemon=True).start()

    def report(self) -> Report:
        """Publish, kill, wait, count."""
        from tests.chaos.tasks import arrive, occupy

        for number, key in enumerate(self.comers):
            arrive.delay(key)
            if number < len(self.loners):
                occupy.delay(self.loners[number], self.dice.uniform(0.0, 0.1))
        kills = self._trouble()
        begun = time.monotonic()
        with suppress(NeverHappened):
            eventually(self._all_done, PATIENCE)
        recovery = time.monotonic() - begun
        arrivals = sorted(self.turnstile.arrivals)
        took = arrivals[-1] - arrivals[0] if arrivals else 0.0
        allowed = 1.05 * len(self.comers) / RATE + LEASE + 2
        left = {name: count for name, count in self._left().items() if count}
        grants = sorted(self.grants.values())
        wrong = [*([] if _peak(grants) <= RATE else ["too many"]), *([] if took <= allowed else ["too slow"])]
        return Report(
            name="limits",
            seed=self.orders.seed,
            asked=len(self.comers) + len(self.loners),
            took_effect=len(self.turnstile.keys) + len(self.turnstile.left),
            lost=len(self.comers) + len(self.loners) - len(self.turnstile.keys) - len(self.turnstile.left),
            doubled=sum(1 for count in self.turnstile.keys.values() if count > 1),
            leaked=sum(left.values()) + len(wrong) + len(self.turnstile.together),
            recovery_s=round(recovery, 2),
            # A worker may be killed between a task's arrival and its acknowledgement.
            may_repeat=True,
            more={
                "workers_killed": kills,
                "most_grants_in_a_second": _peak(grants),
                "most_arrivals_in_a_second": _peak(arrivals),
                "seconds": round(took, 2),
                "ideal_s": len(self.comers) / RATE,
                "allowed_s": round(allowed, 2),
                "together_in_the_slot": len(self.turnstile.together),
                **({"left": left} if left else {}),
                **({"wrong": wrong} if wrong else {}),
            },
        )

    def _watch(self) -> None:
        """Collect the log of grants, of which Redis keeps the last second."""
        while not self._over.wait(0.1):
            with suppress(OSError, Exception):
                for name, at in self.client.zrange("orchestrator:limit:s:turnstile", 0, -1, withscores=True):
                    self.grants[name] = at / 1_000_000

    def _trouble(self) -> int:
        agenda, end, kills = Agenda(), time.monotonic() + self.orders.seconds, 0

        def kill() -> None:
            nonlocal kills
            worker = self.dice.choice(self.workers)
            worker.kill_group()
            worker.wait()
            worker.launch()
            kills += 1
            if time.monotonic() < end and not self._all_done():
                agenda.after(self.dice.uniform(3.0, 6.0), kill)

        agenda.after(min(2.0, self.orders.seconds), kill)
        agenda.run()
        return kills

    def _all_done(self) -> bool:
        here = len(self.turnstile.keys) == len(self.comers) and len(self.turnstile.left) == len(self.loners)
        return here and not any(self._left().values())

    def _left(self) -> dict[str, int]:
        slots = self.client.zcard("orchestrator:limit:c:cell")
        queued = self.client.llen("celery") + self.client.llen("celery\x06\x16+0")
        return {"queued": queued, "in_flight": inflight.count(self.client), "parked": parked(), "slots": slots}


def _peak(times: list[float]) -> int:
    """Return the most of these sorted times that lie within one second, ends excluded."""
    most = begin = 0
    for end, at in enumerate(times):
        while at - times[begin] >= 1.0:
            begin += 1
        most = max(most, end - begin + 1)
    return most
