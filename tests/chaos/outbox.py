"""``outbox``: transactions publish, half are rolled back, publishers and relays die, the broker is away for a while.

Exactly what was committed must run, once each, and nothing that was rolled back.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import time
from collections import Counter
from contextlib import ExitStack

from django.db import connection

from orchestrator.audit.models import AuditEntry
from orchestrator.outbox.models import OutboxMessage
from tests.chaos import census
from tests.chaos.catalogue import Orders, Report
from tests.chaos.publisher import ACTION
from tests.support import environment, far_side
from tests.support.process import Process
from tests.support.wait import NeverHappened, eventually, pause
from tests.support.worker import Relay, Worker, platform_env

TRANSACTIONS = 2000
PUBLISHERS = 2
#: Longest life of a publisher, once it is up; a transaction takes some milliseconds.
LIFETIME = 0.6
PATIENCE = 120.0
#: So short that relays and the publishing processes often send the same message.
GRACE = "0.05"


def run(orders: Orders) -> Report:
    """Play the scenario."""
    environment.world().broker.flush()
    far_side.clear()
    AuditEntry.objects.filter(action=ACTION).delete()
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        return play.settle()


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        self.orders = orders
        self.dice = orders.dice()
        self.env = {"ORCHESTRATOR_TEST_OUTBOX_GRACE": GRACE}
        self.done: Counter[str] = Counter()
        self.stack = stack
        self.relays = [stack.enter_context(Relay(env=self.env)) for _ in range(2)]
        self.wanted = orders.tasks or TRANSACTIONS
        self.next = 0
        self.worker: Worker | None = None

    def trouble(self) -> None:
        """Publish in rounds of processes that die; the broker goes before one and comes back after another."""
        broker = environment.world().broker
        end = time.monotonic() + self.orders.seconds
        away_from, away_until = self.wanted // 4, self.wanted // 2
        while (done := self.done["transactions"]) < self.wanted:
            if done >= away_from and not self.done["broker_outages"]:
                broker.stop()
                self.done["broker_outages"] += 1
            if done >= away_until and not broker.pid:
                broker.start()
            if done >= away_until and self.worker is None:
                # Not earlier: what a worker makes of a broker that goes away is another scenario.
                self.worker = self.stack.enter_context(Worker(concurrency=2, env=self.env))
            self._round(immortal=time.monotonic() > end)
        if not broker.pid:
            broker.start()
        if self.worker is None:
            self.worker = self.stack.enter_context(Worker(concurrency=2, env=self.env))

    def _round(self, *, immortal: bool) -> None:
        """Let some publishers run side by side, and a relay be killed meanwhile."""
        left = self.wanted - self.done["transactions"]
        share = -(-min(left, max(100, self.wanted // 8)) // PUBLISHERS)
        started: list[Process] = []
        for _ in range(PUBLISHERS):
            lifetime = 0.0 if immortal else self.dice.uniform(0.01, LIFETIME)
            arguments = [str(self.next), str(share), str(self.dice.randrange(10**6)), str(lifetime)]
            publisher = Process(
                ["python", "-m", "tests.chaos.publisher", *arguments],
                name="publisher",
                directory=environment.directory() / "logs",
                env=platform_env(self.env),
            )
            publisher.launch()
            started.append(publisher)
            # Every number is used once: one whose process died may have been committed or not.
            self.next += share
        pause(self.dice.uniform(0, 1.5))
        self._kill_relay(self.dice)
        for publisher in started:
            end = publisher.wait(PATIENCE)
            assert end in (0, -signal.SIGALRM), publisher.tail()
            self.done["publishers_killed"] += end == -signal.SIGALRM
            self.done["transactions"] += len(re.findall(r"^\d+$", publisher.log, re.MULTILINE))

    def _kill_relay(self, dice: random.Random) -> None:
        relay = dice.choice(self.relays)
        if relay.running:
            relay.kill()
            relay.kill_group()
            relay.wait()
            self.done["relays_killed"] += 1
        relay.start()

    def settle(self) -> Report:
        """Wait until everything that was committed ran, and count."""
        for relay in self.relays:
            if not relay.running:
                relay.start()
        connection.close()
        committed = set(AuditEntry.objects.filter(action=ACTION).values_list("target", flat=True))
        begun = time.monotonic()
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not census.leftovers() and not committed - far_side.counts().keys(), PATIENCE)
        recovery = time.monotonic() - begun
        # Relays forget rows in bulk, a moment later.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not OutboxMessage.objects.exists(), 15)
        ran, left = far_side.counts(), census.leftovers()
        phantoms = [key for key in ran if key not in committed]
        return Report(
            name="outbox",
            seed=self.orders.seed,
            asked=len(committed),
            took_effect=sum(1 for key in committed if ran[key]),
            lost=sum(1 for key in committed if not ran[key]),
            doubled=sum(1 for key in committed if ran[key] > 1),
            leaked=sum(left.values()) + len(phantoms),
            recovery_s=round(recovery, 2),
            more={
                "database": connection.vendor,
                "rolled_back_but_ran": len(phantoms),
                # Sent, and not known to have ended.
                "rows_left": OutboxMessage.objects.count(),
                "copies_dropped": self.worker.log.count(" ignored") if self.worker else 0,
                **self.done,
                **({"left": left} if left else {}),
            },
        )
