"""``results``: relays, workers, Redis and the database get SIGKILL at random while tasks whose results are kept run.

Every result must be in the table once, be right and final, and nothing may be left in Redis.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from celery import states
from django.db import DatabaseError, connection
from django_celery_results.models import TaskResult

from orchestrator import conf
from orchestrator.celery import get_app
from tests.chaos import census
from tests.chaos.agenda import Agenda
from tests.chaos.catalogue import Orders, Report
from tests.chaos.tasks import fails, square
from tests.support import environment
from tests.support.process import Process
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Relay, Worker

TASKS = 20_000
WORKERS, RELAYS = 2, 2
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
        self.done: Counter[str] = Counter()
        #: Task id -> number. All of them wait before the first worker starts, so that they run while there is trouble.
        self.asked = {square.delay(number).id: number for number in range(orders.tasks or TASKS)}
        self.relays = [stack.enter_context(Relay(env=ENV)) for _ in range(RELAYS)]
        self.workers = [stack.enter_context(Worker(concurrency=2, env=ENV)) for _ in range(WORKERS)]

    def trouble(self) -> None:
        """Kill something every half second or so, and start it again."""
        blows: list[Callable[[], None]] = [self._worker, self._relay, self._broker]
        if environment.world().postgresql is not None:
            blows.append(self._database)
        agenda, end = Agenda(), time.monotonic() + self.orders.seconds
        # Each at least once, then as chance has it.
        order = [*self.dice.sample(blows, len(blows))]

        def strike() -> None:
            (order.pop() if order else self.dice.choice(blows))()
            if time.monotonic() < end:
                agenda.after(self.dice.uniform(0.2, 1.5), strike)

        agenda.after(0.2, strike)
        agenda.run()

    def settle(self) -> Report:
        """Wait until everything has its row, and count."""
        begun = time.monotonic()
        for process in (*self.workers, *self.relays):
            if not process.running:
                process.start()
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: self._ended() and not self._left(), PATIENCE)
        recovery = time.monotonic() - begun
        wrong, left = self._wrong(), self._left()
        return Report(
            name="results",
            seed=self.orders.seed,
            asked=len(self.asked),
            took_effect=len(self.asked) - len(wrong),
            lost=len(wrong),
            doubled=TaskResult.objects.count() - TaskResult.objects.values("task_id").distinct().count(),
            leaked=sum(left.values()),
            recovery_s=round(recovery, 2),
            more={
                "database": connection.vendor,
                **self.done,
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

    def _wrong(self) -> dict[str, tuple[str, str]]:
        """Return what the table says instead of the right thing, by task id."""
        try:
            connection.close()
            rows = {row[0]: row[1:] for row in TaskResult.objects.values_list("task_id", "status", "result")}
        except DatabaseError as error:
            return {"": ("", str(error))}
        found = {}
        for task_id, number in self.asked.items():
            status, result = rows.get(task_id, ("", ""))
            right = status == "FAILURE" if fails(number) else (status, result) == ("SUCCESS", str(number**2))
            if not right:
                found[task_id] = (status, result)
        return found

    def _left(self) -> dict[str, int]:
        """Return what is not at its end, and keys of results that lie in Redis."""
        client = environment.world().broker.client
        prefix = conf.settings().key_prefix
        keys = [*client.scan_iter(f"{prefix}results:*"), *client.scan_iter(f"{prefix}chord:*")]
        return {**census.leftovers(), **({"keys": len(keys)} if keys else {})}

    def _worker(self) -> None:
        self._kill(self.dice.choice(self.workers))
        self.done["workers_killed"] += 1

    def _relay(self) -> None:
        self._kill(self.dice.choice(self.relays))
        self.done["relays_killed"] += 1

    def _kill(self, process: Process) -> None:
        if process.running:
            process.kill_group()
            process.wait()
        process.launch()

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
