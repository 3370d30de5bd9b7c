"""``child_kill``: everything but whole workers and the broker dies at random moments.

A web process publishes tasks one by one on request. Meanwhile pool processes, the
relay and the web process get SIGKILL, and the database goes away and comes back.
Every task whose publication was confirmed must end as a success or as a dead letter,
not both.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlencode

from django.db import connection

from tests.chaos import census
from tests.chaos.agenda import Agenda
from tests.chaos.catalogue import Orders, Report
from tests.support import database, environment, far_side
from tests.support.process import Process
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Relay, Web, Worker

TASKS = 500
CONCURRENCY = 2
#: Ends of tasks, by weight.
HOW = {"succeed": 80, "fail": 7, "permanent": 5, "waver": 8}
#: The pool waits 10 s for the result of a process that died before it declares the task lost.
PATIENCE = 90.0


def run(orders: Orders) -> Report:
    """Play the scenario."""
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        report = play.settle()
    return report


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        environment.world().broker.flush()
        far_side.clear()
        env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks"}
        self.orders = orders
        self.wanted = orders.tasks or TASKS
        self.dice = orders.dice()
        self.asker = _Asker(random.Random(self.dice.random()))
        self.agenda = Agenda()
        self.done = Counter[str]()
        self.worker = stack.enter_context(Worker(concurrency=CONCURRENCY, env=env))
        self.relay = stack.enter_context(Relay(env=env))
        self.web = stack.enter_context(Web(env={**env, "ORCHESTRATOR_TEST_URLCONF": "tests.chaos.web"}))
        self._outage = stack.enter_context(ExitStack())
        self._end = 0.0

    def trouble(self) -> None:
        """Publish over the given time while things die."""
        self._end = time.monotonic() + self.orders.seconds
        self.agenda.after(0, self._ask)
        for kind, (move, low, high) in self._moves().items():
            self.agenda.after(self.dice.uniform(0, high), self._repeat(kind, move, low, high))
        self.agenda.run(until=lambda: len(self.asker.confirmed) >= self.wanted and time.monotonic() >= self._end)
        self._outage.close()
        for process in (self.web, self.relay):
            self._revive(process)

    def settle(self) -> Report:
        """Wait for every ending and count."""
        begun = time.monotonic()
        confirmed = self.asker.confirmed
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not census.leftovers() and not census.take().lost(confirmed), PATIENCE)
        recovery = time.monotonic() - begun
        counted, left, effects = census.take(), census.leftovers(), far_side.counts()
        # Nobody knows whether an unconfirmed one was published; if it began, it must have an ending as well.
        begun_unconfirmed = [key for key in self.asker.unclear if effects[f"begun:{key}"]]
        every = [*confirmed, *begun_unconfirmed]
        lost = counted.lost(every)
        repeated = [key for key in every if effects[f"done:{key}"] > 1]
        doubled = {*counted.doubled(every), *repeated}
        return Report(
            name="child_kill",
            seed=self.orders.seed,
            asked=len(confirmed),
            took_effect=sum(1 for key in confirmed if effects[f"done:{key}"]),
            lost=len(lost),
            doubled=len(doubled),
            leaked=sum(left.values()),
            recovery_s=round(recovery, 2),
            more={
                "database": connection.vendor,
                "succeeded": sum(1 for key in confirmed if key in counted.succeeded),
                "dead_letters": sum(1 for key in confirmed if counted.letters[key]),
                "unconfirmed": len(self.asker.unclear),
                "refused": len(self.asker.refused),
                **self.done,
                **({"left": left} if left else {}),
                **({"lost_ids": lost[:10]} if lost else {}),
                **({"doubled_ids": sorted(doubled)[:10]} if doubled else {}),
            },
        )

    # --- moves ------------------------------------------------------------------

    def _moves(self) -> dict[str, tuple[Callable[[], bool], float, float]]:
        """Return what is broken, and the shortest and longest time between two times."""
        return {
            "children_killed": (self._kill_child, 0.2, 1.5),
            "relay_killed": (lambda: self._kill(self.relay), 1.0, 4.0),
            "web_killed": (lambda: self._kill(self.web), 2.0, 6.0),
            "database_outages": (self._take_database_away, 2.0, 6.0),
        }

    def _repeat(self, kind: str, move: Callable[[], bool], low: float, high: float) -> Callable[[], None]:
        def again() -> None:
            if time.monotonic() < self._end:
                self.done[kind] += move()
                self.agenda.after(self.dice.uniform(low, high), again)

        return again

    def _ask(self) -> None:
        if len(self.asker.confirmed) < self.wanted:
            self.asker.ask(self.web.url)
            self.agenda.after(self.orders.seconds / self.wanted * self.dice.uniform(0.2, 1.4), self._ask)

    def _kill_child(self) -> bool:
        children = self.worker.pool_children()
        if not children:
            return False
        try:
            os.kill(self.dice.choice(children), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _kill(self, process: Process) -> bool:
        if not process.running:
            return False
        process.kill()
        process.kill_group()
        process.wait()
        self.agenda.after(self.dice.uniform(0, 1.5), lambda: self._revive(process))
        return True

    def _revive(self, process: Process) -> None:
        if not process.running:
            # Not waited for: the rest of the trouble goes on while it starts.
            process.launch()

    def _take_database_away(self) -> bool:
        if connection.vendor == "sqlite":
            self._outage.enter_context(database.sqlite_held(str(connection.settings_dict["NAME"])))
        else:
            server = environment.world().postgresql
            assert server is not None
            server.stop()
            self._outage.callback(server.start)
        self.agenda.after(self.dice.uniform(0.3, 2.0), self._outage.close)
        return True


class _Asker:
    """Asks the web process for tasks and keeps what it confirmed."""

    def __init__(self, dice: random.Random) -> None:
        self.confirmed: list[str] = []
        self.unclear: list[str] = []
        self.refused: list[str] = []
        self._dice = dice

    def ask(self, url: str) -> None:
        """Ask once. An id whose answer did not come is given up, because asking twice could mean two tasks."""
        task_id = str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
        (how,) = self._dice.choices(list(HOW), weights=list(HOW.values()))
        query = urlencode({"id": task_id, "seconds": round(self._dice.uniform(0, 0.06), 4), "how": how})
        try:
            with urllib.request.urlopen(f"{url}/ask/?{query}", timeout=10) as answer:
                assert json.load(answer)["id"] == task_id
        except urllib.error.URLError as error:
            refused = isinstance(error.reason, ConnectionRefusedError)
            (self.refused if refused else self.unclear).append(task_id)
        except (OSError, ValueError):
            self.unclear.append(task_id)
        else:
            self.confirmed.append(task_id)
