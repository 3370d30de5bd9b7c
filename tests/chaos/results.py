"""``results``: relays, workers, Redis and the database get SIGKILL at random while tasks whose results are kept run.

Every result must be in the table once, be right and final, and nothing may be left in Redis. What one
process of a pool worked on when it was killed alone ends as a failure that says so, with its dead letter.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from celery import states
from django.db import DatabaseError, connection
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters.models import DeadLetter
from tests.chaos import census
from tests.chaos.catalogue import Orders, Report
from tests.chaos.strikes import Strikes
from tests.chaos.tasks import fails, square
from tests.support import environment
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Relay, Worker

TASKS = 20_000
#: One worker of each kind that has processes.
POOLS, RELAYS = ("swarm", "prefork"), 2
PATIENCE = 300.0
ENV: dict[str, str | None] = {
    "ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks",
    "ORCHESTRATOR_TEST_LEASE": "3",
    "ORCHESTRATOR_TEST_DELIVERIES": "1000",
}


def run(orders: Orders) -> Report:
    """Play the scenario."""
    get_app().set_default()
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        return play.settle()


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        self.orders = orders
        self.dice = orders.dice()
        self.strikes = Strikes(self.dice)
        self.done = self.strikes.done
        #: Task id -> number. All of them wait before the first worker starts, so that they run while there is trouble.
        self.asked = {square.delay(number).id: number for number in range(orders.tasks or TASKS)}
        self.relays = [stack.enter_context(Relay(env=ENV)) for _ in range(RELAYS)]
        self.workers = [stack.enter_context(Worker(pool=pool, concurrency=2, env=ENV)) for pool in POOLS]

    def trouble(self) -> None:
        """Kill something every half second or so, and start it again."""
        blows: list[Callable[[], None]] = [self._relay, self._broker]
        for worker in self.workers:
            blows += [partial(self.strikes.process, worker, "workers"), partial(self.strikes.child, worker)]
        if environment.world().postgresql is not None:
            blows.append(self._database)
        self.strikes.go_on(blows, self.orders.seconds)

    def settle(self) -> Report:
        """Wait until everything has its row, and count."""
        begun = time.monotonic()
        self.strikes.start_missing([*self.workers, *self.relays])
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: self._ended() and not census.leftovers_of_results(), PATIENCE)
        recovery = time.monotonic() - begun
        wrong, killed, left = *self._wrong(), census.leftovers_of_results()
        return Report(
            name="results",
            seed=self.orders.seed,
            asked=len(self.asked),
            took_effect=len(self.asked) - len(wrong) - len(killed),
            lost=len(wrong),
            doubled=max(0, len(killed) - self.done["children_killed"])
            + TaskResult.objects.count()
            - TaskResult.objects.values("task_id").distinct().count(),
            leaked=sum(left.values()),
            recovery_s=round(recovery, 2),
            more={
                "database": connection.vendor,
                **self.done,
                "tasks_killed_with_their_child": len(killed),
                **({"last_words": self.strikes.last_words} if self.strikes.last_words else {}),
                **({"left": left} if left else {}),
                **({"wrong": dict(list(wrong.items())[:5])} if wrong else {}),
            },
        )

    def _ended(self) -> bool:
        """Whether as many tasks have ended as were asked for; cheap enough to be asked again and again."""
        try:
            connection.close()
            return TaskResult.objects.filter(status__in=states.READY_STATES).count() >= len(self.asked)
        except DatabaseError:
            return False

    def _wrong(self) -> tuple[dict[str, tuple[str, str]], list[str]]:
        """Return what the table says by task id where it is not right; and what died with its child."""
        try:
            connection.close()
            rows = {row[0]: row[1:] for row in TaskResult.objects.values_list("task_id", "status", "result")}
        except DatabaseError as error:
            return {"": ("", str(error))}, []
        found, killed = {}, []
        letters = set(DeadLetter.objects.filter(reason=Reason.WORKER_LOST.value).values_list("task_id", flat=True))
        for task_id, number in self.asked.items():
            status, result = rows.get(task_id, ("", ""))
            right = status == "FAILURE" if fails(number) else (status, result) == ("SUCCESS", str(number**2))
            if right:
                continue
            if task_id in letters and "WorkerLostError" in result:
                killed.append(task_id)
            else:
                found[task_id] = (status, result)
        return found, killed

    def _relay(self) -> None:
        self.strikes.process(self.dice.choice(self.relays), "relays")

    def _broker(self) -> None:
        broker = environment.world().broker
        broker.kill()
        broker.start()
        self.done["redis_killed"] += 1

    def _database(self) -> None:
        server = environment.world().postgresql
        assert server is not None
        server.kill()
        server.start()
        self.done["database_killed"] += 1
