"""``charges``: an order is charged and entered once, however often it is sent and whoever dies.

Each order is sent one to five times to two tasks: one charges it at a provider over
HTTP, one enters it into a ledger in the database. Meanwhile pool processes and whole
workers get SIGKILL, and messages are delivered again while their task still runs. What
was buried is redriven until everything has ended well.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from typing import Any

from django.db import connection
from django_celery_results.models import TaskResult

from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from tests.chaos import census
from tests.chaos.catalogue import Orders, Report
from tests.chaos.provider import Provider
from tests.support import environment
from tests.support.wait import NeverHappened, eventually, pause
from tests.support.worker import Relay, Worker

ORDERS = 100
COPIES = 5
WORKERS = 2
#: Seconds: a lease, and how long a message is out before it is delivered again.
LEASE, VISIBILITY = 3.0, 6.0
PATIENCE = 150.0


def run(orders: Orders) -> Report:
    """Play the scenario."""
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        return play.settle()


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        environment.world().broker.flush()
        self.orders, self.dice = orders, orders.dice()
        self.wanted = [f"order-{number}" for number in range(orders.tasks or ORDERS)]
        self.provider = stack.enter_context(Provider())
        env = {
            "ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks",
            "ORCHESTRATOR_TEST_PROVIDER": self.provider.url,
            "ORCHESTRATOR_TEST_LEASE": str(LEASE),
        }
        self.workers = [stack.enter_context(Worker(concurrency=2, env=env)) for _ in range(WORKERS)]
        stack.enter_context(Relay(env=env))
        #: (task, order) -> ids under which it was asked for, redrives among them.
        self.ids: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.done = Counter[str]()

    def trouble(self) -> None:
        """Send every order several times, in any order, over the given time, while things die."""
        from tests.chaos.tasks import charge, enter

        seconds = [random.Random(self.dice.random()).uniform(0, 0.08) for _ in self.wanted]
        copies = [
            (task, order, taking)
            for order, taking in zip(self.wanted, seconds, strict=True)
            for task in (charge, enter)
            for _ in range(self.dice.randint(1, COPIES))
        ]
        self.dice.shuffle(copies)
        end = time.monotonic() + self.orders.seconds
        next_child, next_worker = 0.3, self.orders.seconds / 3
        begun = time.monotonic()
        for task, order, taking in copies:
            self.ids[task.name, order].add(task.delay(order, taking).id)
            self.done["sent"] += 1
            pause(self.orders.seconds / len(copies))
            if time.monotonic() - begun > next_child:
                self._kill_child()
                self._redeliver()
                next_child += self.dice.uniform(0.3, 1.5)
            if time.monotonic() - begun > next_worker and time.monotonic() < end:
                self._kill_worker()
                next_worker += self.dice.uniform(4.0, 8.0)

    def settle(self) -> Report:
        """Redrive what was buried until everything has ended well, and count."""
        begun = time.monotonic()
        with suppress(NeverHappened):
            eventually(self._all_ended, PATIENCE)
        recovery = time.monotonic() - begun
        left = census.leftovers()
        ledger: defaultdict[str, list[str]] = defaultdict(list)
        for order, action in AuditEntry.objects.filter(actor="ledger").values_list("target", "action"):
            ledger[order].append(action)
        charged = self.provider.charges
        once = [o for o in self.wanted if charged[o] == 1 and sorted(ledger[o]) == ["credit", "debit"]]
        lost = [o for o in self.wanted if not charged[o] or not ledger[o]]
        doubled = [o for o in self.wanted if charged[o] > 1 or len(ledger[o]) > 2 or len(self.provider.keys[o]) > 1]
        results = self._results()
        return Report(
            name="charges",
            seed=self.orders.seed,
            asked=len(self.wanted),
            took_effect=len(once),
            lost=len(lost),
            doubled=len(doubled),
            leaked=sum(left.values()),
            recovery_s=round(recovery, 2),
            more={
                "database": connection.vendor,
                **self.done,
                "provider_requests": self.provider.requests,
                "unequal_results": sum(1 for values in results.values() if len(values) != 1),
                **({"left": left} if left else {}),
                **({"wrong": sorted({*lost, *doubled})[:10]} if lost or doubled else {}),
            },
        )

    def _all_ended(self) -> bool:
        connection.close()
        self._revive()
        self._redeliver()
        for letter in DeadLetter.objects.filter(state=State.OPEN):
            (place,) = [place for place, ids in self.ids.items() if letter.task_id in ids]
            self.ids[place].add(services.redrive(letter.pk))
            self.done["redriven"] += 1
        if census.leftovers():
            return False
        open_letters: int = census.open_letters()
        return not open_letters and all(self._results().values())

    def _results(self) -> dict[tuple[str, str], set[Any]]:
        """Return the different results of each task and order."""
        found = dict(TaskResult.objects.filter(status="SUCCESS").values_list("task_id", "result"))
        return {place: {found[one] for one in ids if one in found} for place, ids in self.ids.items()}

    def _redeliver(self) -> None:
        """Let messages come back that were out for too long; kombu's workers look only every 100 s."""
        with get_app().connection_for_write() as broker:
            channel = broker.default_channel
            channel.visibility_timeout = VISIBILITY
            channel.qos.restore_visible(interval=1)

    def _revive(self) -> None:
        # Celery ends a worker whose first children die as it starts; a supervisor starts it again.
        for worker in self.workers:
            if not worker.running:
                worker.launch()

    def _kill_child(self) -> None:
        children = [child for worker in self.workers for child in worker.pool_children()]
        if children:
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(children), signal.SIGKILL)
                self.done["children_killed"] += 1

    def _kill_worker(self) -> None:
        worker = self.dice.choice(self.workers)
        if worker.running:
            worker.kill()
            worker.kill_group()
            worker.wait()
            self.done["workers_killed"] += 1
        self._revive()
