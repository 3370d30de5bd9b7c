"""``charges``: an order is charged and entered once, however often it is sent and whatever dies.

Each order is sent one to five times to two tasks: one charges it at a provider over
HTTP, one enters it into a ledger in the database. Meanwhile pool processes and whole
workers get SIGKILL, workers are stopped for longer than their lease, so that what they
run is delivered to others as well, and broker and database are killed or stopped and
started again. What was buried is redriven until everything has ended well.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from django.db import DatabaseError, InterfaceError, connection
from django_celery_results.models import TaskResult

from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from tests.chaos import census
from tests.chaos.agenda import Agenda
from tests.chaos.catalogue import Orders, Report
from tests.chaos.provider import Provider
from tests.support import environment
from tests.support.wait import NeverHappened, eventually, pause
from tests.support.worker import Relay, Worker

ORDERS = 100
COPIES = 5
POOLS = ("swarm", "prefork")
#: Seconds: a lease, and how long a worker is stopped, so that it loses what it holds.
LEASE, STALL = 3.0, 4.5
#: Seconds to wait for the end, or for less to be left: many messages take their time on a busy machine.
PATIENCE = 120.0
#: Longest time that a task takes before and after its effect; shorter where there are many.
TAKING = 0.08


def run(orders: Orders) -> Report:
    """Play the scenario."""
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        return play.settle()


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        self.broker, self.postgresql = environment.world().broker, environment.world().postgresql
        self.broker.flush()
        self.broker.client.config_set("appendfsync", "always")
        self.orders, self.dice = orders, orders.dice()
        self.wanted = [f"order-{number}" for number in range(orders.tasks or ORDERS)]
        self.provider = stack.enter_context(Provider())
        env = {
            "ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks",
            "ORCHESTRATOR_TEST_PROVIDER": self.provider.url,
            "ORCHESTRATOR_TEST_LEASE": str(LEASE),
            "ORCHESTRATOR_TEST_DELIVERIES": "1000",
        }
        self.workers = [stack.enter_context(Worker(pool=pool, concurrency=2, env=env)) for pool in POOLS]
        stack.enter_context(Relay(env=env))
        self.sender = _Sender(self.wanted, random.Random(self.dice.random()), orders.seconds)
        self.agenda = Agenda()
        self.done = Counter[str]()
        self._end = 0.0

    # --- trouble ------------------------------------------------------------------

    def trouble(self) -> None:
        """Send every order several times, in any order, over the given time, while things die."""
        seconds = self.orders.seconds
        self._end = time.monotonic() + seconds
        self.sender.start()
        for kind, (move, first, low, high) in self._moves().items():
            self.agenda.after(first * seconds, self._repeat(kind, move, low, high))
        self.agenda.run()
        self.sender.join()

    def _moves(self) -> dict[str, tuple[Callable[[], bool], float, float, float]]:
        """Return what is broken: when first, as a share of the time, and the shortest and longest pause after that."""
        moves = {
            "children_killed": (self._kill_child, 0.05, 0.3, 1.5),
            "workers_killed": (self._kill_worker, 0.25, 4.0, 10.0),
            "workers_stopped": (self._stop_worker, 0.1, 8.0, 16.0),
            "broker_restarts": (self._restart_broker, 0.5, 10.0, 25.0),
        }
        if self.postgresql is not None:
            moves["database_restarts"] = (self._restart_database, 0.75, 10.0, 25.0)
        return moves

    def _repeat(self, kind: str, move: Callable[[], bool], low: float, high: float) -> Callable[[], None]:
        def again() -> None:
            self.done[kind] += move()
            self._revive()
            until_next = self.dice.uniform(low, high)
            if time.monotonic() + until_next < self._end:
                self.agenda.after(until_next, again)

        return again

    def _kill_child(self) -> bool:
        children = [child for worker in self.workers for child in worker.pool_children()]
        if not children:
            return False
        with suppress(ProcessLookupError):
            os.kill(self.dice.choice(children), signal.SIGKILL)
        return True

    def _kill_worker(self) -> bool:
        worker = self.dice.choice(self.workers)
        if not worker.running:
            return False
        worker.kill_group()
        worker.wait()
        return True

    def _stop_worker(self) -> bool:
        """Its children go on, but nobody renews its messages: they are delivered again while they run."""
        worker = self.dice.choice(self.workers)
        if not worker.running:
            return False
        pid = worker.pid
        os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        self.agenda.after(STALL, go_on)
        return True

    def _restart_broker(self) -> bool:
        self.broker.kill()
        self.broker.start()
        self.broker.client.config_set("appendfsync", "always")
        return True

    def _restart_database(self) -> bool:
        assert self.postgresql is not None
        self.postgresql.stop()
        self.agenda.after(self.dice.uniform(0.1, 1.0), self.postgresql.start)
        return True

    def _revive(self) -> None:
        # Celery ends a worker whose first children die as it starts; a supervisor starts it again.
        for worker in self.workers:
            if not worker.running:
                worker.launch()

    # --- counting -----------------------------------------------------------------

    def settle(self) -> Report:
        """Redrive what was buried until everything has ended well, and count."""
        begun = time.monotonic()
        self._wait()
        recovery = time.monotonic() - begun
        left = census.leftovers()
        ledger: defaultdict[str, list[str]] = defaultdict(list)
        for order, action in AuditEntry.objects.filter(actor="ledger").values_list("target", "action"):
            ledger[order].append(action)
        charged, results = self.provider.charges, self._results()
        unequal = {order for (_, order), values in results.items() if len(values) > 1}
        unfinished = {order for (_, order), values in results.items() if not values}
        once = [o for o in self.wanted if charged[o] == 1 and sorted(ledger[o]) == ["credit", "debit"]]
        lost = [o for o in self.wanted if not charged[o] or not ledger[o] or o in unfinished]
        doubled = [
            o
            for o in self.wanted
            if charged[o] > 1 or len(ledger[o]) > 2 or len(self.provider.keys[o]) > 1 or o in unequal
        ]
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
                "sent": self.sender.sent,
                "sent_again": self.sender.again,
                **self.done,
                "provider_requests": self.provider.requests,
                "unequal_results": len(unequal),
                **({"left": left} if left else {}),
                **({"wrong": sorted({*lost, *doubled})[:10]} if lost or doubled else {}),
            },
        )

    def _wait(self) -> None:
        """Wait until everything has ended; once nothing moves any more, the report says what is missing."""
        left, before = sum(census.leftovers().values()), float("inf")
        while left < before:
            with suppress(NeverHappened):
                eventually(self._all_ended, PATIENCE, most=1.0)
                return
            left, before = sum(census.leftovers().values()), left

    def _all_ended(self) -> bool:
        connection.close()
        self._revive()
        for letter in DeadLetter.objects.filter(state=State.OPEN).defer("payload"):
            self.sender.places[services.redrive(letter.pk)] = self.sender.places[letter.task_id]
            self.done["redriven"] += 1
        if census.leftovers() or census.open_letters():
            return False
        return all(self._results().values())

    def _results(self) -> dict[tuple[str, str], set[Any]]:
        """Return the different results of each task and order."""
        found: dict[tuple[str, str], set[Any]] = {place: set() for place in self.sender.places.values()}
        for task_id, result in TaskResult.objects.filter(status="SUCCESS").values_list("task_id", "result"):
            if task_id in self.sender.places:
                found[self.sender.places[task_id]].add(result)
        return found


class _Sender(threading.Thread):
    """Sends the copies, evenly over the time, each until it is taken."""

    def __init__(self, orders: list[str], dice: random.Random, seconds: float) -> None:
        super().__init__(daemon=True)
        self._seconds, self._dice = seconds, dice
        longest = TAKING * min(1.0, ORDERS / len(orders))
        taking = [dice.uniform(0, longest) for _ in orders]
        self._copies = [
            (name, order, took)
            for order, took in zip(orders, taking, strict=True)
            for name in ("charge", "enter")
            for _ in range(dice.randint(1, COPIES))
        ]
        dice.shuffle(self._copies)
        #: Id under which something was asked for, redrives among them -> task and order.
        self.places: dict[str, tuple[str, str]] = {}
        self.sent = self.again = 0

    def run(self) -> None:
        """Send everything."""
        from tests.chaos import tasks

        begun = time.monotonic()
        for number, (name, order, taking) in enumerate(self._copies):
            task_id = str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
            self.places[task_id] = (name, order)
            self._send(getattr(tasks, name), order, taking, task_id)
            self.sent += 1
            ahead = begun + self._seconds * (number + 1) / len(self._copies) - time.monotonic()
            if ahead > 0:
                pause(ahead)
        connection.close()

    def _send(self, task: Any, order: str, taking: float, task_id: str) -> None:
        while True:
            try:
                task.apply_async((order, taking), task_id=task_id)
            except (StoreUnavailable, DatabaseError, InterfaceError, OSError):
                # With the same id that is safe, whether it was sent or not.
                self.again += 1
                connection.close()
                pause(0.2)
            else:
                return
