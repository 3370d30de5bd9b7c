"""``child_kill``: everything but whole workers and the broker dies at random moments.

A web process publishes tasks one by one on request. Meanwhile pool processes, the
relay and the web process get SIGKILL, and the database goes away and comes back.
Every task whose publication was confirmed must end as a success or as a dead letter,
not both.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlencode

from django.db import connection

from orchestrator.launch.ports import answers
from tests.chaos import census
from tests.chaos.agenda import Agenda
from tests.chaos.catalogue import Orders, Report
from tests.support import database, environment, far_side
from tests.support.process import Process
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Relay, Web, Worker

TASKS = 500
CONCURRENCY = 2
#: For even and odd seeds.
POOLS = ("swarm", "prefork")
#: Requests at a time.
CLIENTS = 4
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
        env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks"}
        self.orders = orders
        self.wanted = orders.tasks or TASKS
        self.dice = orders.dice()
        self.asker = _Asker(random.Random(self.dice.random()), self.wanted, orders.seconds)
        self.agenda = Agenda()
        self.done = Counter[str]()
        # The seed says which, so that a run can be repeated.
        pool = POOLS[orders.seed % 2]
        self.worker = stack.enter_context(Worker(pool=pool, concurrency=CONCURRENCY, env=env))
        self.relay = stack.enter_context(Relay(env=env))
        self.web = stack.enter_context(Web(workers=2, env={**env, "ORCHESTRATOR_TEST_URLCONF": "tests.chaos.web"}))
        self._outage = stack.enter_context(ExitStack())
        self._end = 0.0

    def trouble(self) -> None:
        """Publish over the given time while things die."""
        self._end = time.monotonic() + self.orders.seconds
        self.asker.start(self.web.url)
        for kind, (move, low, high) in self._moves().items():
            self.agenda.after(self.dice.uniform(0, high), self._repeat(kind, move, low, high))
        self.agenda.run()
        self._outage.close()
        for process in (self.web, self.relay):
            self._revive(process)
        # A slow machine may not have got to all of them in the time of the trouble.
        eventually(lambda: self.asker.enough, 20 * PATIENCE, lambda: f"enough asked\n{self.web.tail()}")
        self.asker.stop()

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
        # What a process of a swarm did in the 20 ms before it was killed may run again (fail-modes.md); it ends once.
        may = self.worker.pool == "swarm"
        doubled = {*counted.doubled(every), *(() if may else repeated)}
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
                "pool": self.worker.pool,
                "succeeded": sum(1 for key in confirmed if key in counted.succeeded),
                "dead_letters": sum(1 for key in confirmed if counted.letters[key]),
                "unconfirmed": len(self.asker.unclear),
                "refused": len(self.asker.refused),
                **({"repeated": len(repeated)} if may else {}),
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
            "web_killed": (self._kill_web, 3.0, 8.0),
            "database_outages": (self._take_database_away, 2.0, 6.0),
        }

    def _repeat(self, kind: str, move: Callable[[], bool], low: float, high: float) -> Callable[[], None]:
        def again() -> None:
            if time.monotonic() < self._end:
                self.done[kind] += move()
                self.agenda.after(self.dice.uniform(low, high), again)

        return again

    def _kill_child(self) -> bool:
        children = self.worker.pool_children()
        if not children:
            return False
        try:
            os.kill(self.dice.choice(children), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def _kill_web(self) -> bool:
        # On a slow machine one that is killed at once, again and again, would never confirm anything.
        return answers(self.web.port) and self._kill(self.web)

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
    """Asks the web process for tasks, several at a time, and keeps what it confirmed."""

    def __init__(self, dice: random.Random, wanted: int, seconds: float) -> None:
        self.confirmed: list[str] = []
        #: No answer came: nobody knows whether it was published.
        self.unclear: list[str] = []
        #: Nobody listened, so it was not published.
        self.refused: list[str] = []
        self._dice = dice
        self._wanted = wanted
        self._pause = seconds * CLIENTS / wanted
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def enough(self) -> bool:
        """Whether as many as wanted were confirmed."""
        return len(self.confirmed) >= self._wanted

    def start(self, url: str) -> None:
        """Begin to ask."""
        self._threads = [threading.Thread(target=self._keep_asking, args=(url,), daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are due."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _keep_asking(self, url: str) -> None:
        while not self.enough and not self._stopped.is_set():
            with self._lock:
                task_id = str(uuid.UUID(int=self._dice.getrandbits(128), version=4))
                (how,) = self._dice.choices(list(HOW), weights=list(HOW.values()))
                seconds, wait = self._dice.uniform(0, 0.06), self._dice.uniform(0.2, 1.4) * self._pause
            self._ask(f"{url}/ask/?{urlencode({'id': task_id, 'seconds': seconds, 'how': how})}", task_id)
            self._stopped.wait(wait)

    def _ask(self, url: str, task_id: str) -> None:
        """Ask once. An id whose answer did not come is given up, because asking twice could mean two tasks."""
        kept = self.unclear
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                if json.load(answer)["id"] == task_id:
                    kept = self.confirmed
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                kept = self.refused
        except (OSError, ValueError, http.client.HTTPException):
            pass
        kept.append(task_id)
