"""``lost_tail``: the broker dies under load and comes back with the end of its file cut off.

That is what a power cut leaves where not every write is synced. What was published then is
lost, and cannot be otherwise; the platform has to say so by itself. ``lost`` counts tasks
without an end, ``told`` those of them that lie within the time that the platform names.
"""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random
from uuid import UUID

from django.db import connection

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.outbox.models import OutboxMessage
from orchestrator.transport import setback
from orchestrator.transport.keys import Keys
from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.support import environment, far_side, labour
from tests.support.broker import Broker
from tests.support.wait import NeverHappened, eventually, pause
from tests.support.worker import Relay, Worker

#: Seconds of writes that are cut off: sweeps, which the platform remembers, are at most one apart.
LOST = (1.5, 3.0)
#: Longer than workers can run them, so that some wait when they are lost.
LENGTHS = (0.05, 0.1, 0.2)
PATIENCE = 60.0


def run(orders: Orders) -> Report:
    """Play the scenario."""
    broker, dice = environment.world().broker, orders.dice()
    broker.client.config_set("appendfsync", "always")
    get_app().set_default()
    env = {**labour.ENV, "ORCHESTRATOR_TEST_LEASE": str(load.LEASE), "ORCHESTRATOR_TEST_DELIVERIES": "1000"}
    with ExitStack() as stack:
        workers = [Worker(pool=pool, concurrency=2, env=env) for pool in load.POOLS]
        # The relay sends what is published while the broker is away.
        load.start_together(stack, [*workers, Relay(env=env)])
        publisher = _Publisher(orders.tasks or load.TASKS, orders.seconds, Random(dice.random()))
        publisher.start()
        pause(orders.seconds * dice.uniform(0.3, 0.6))
        size = _file(broker).stat().st_size
        pause(dice.uniform(*LOST))
        broker.kill()
        cut = _file(broker).stat().st_size - size
        with _file(broker).open("r+b") as file:
            # In the middle of a command, as a power cut would.
            file.truncate(size + 7)
        broker.start()
        broker.client.config_set("appendfsync", "always")
        publisher.join()
        begun = time.monotonic()
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not load.left(broker) and not _unsent(), PATIENCE)
        counts, found = far_side.counts(), setback.last(broker.client, Keys("", conf.settings().key_prefix))
        lost = [key for key in publisher.confirmed if not counts[f"{key}:end"]]
        told = [key for key in lost if found is not None and found.since <= publisher.confirmed[key] <= found.noticed]
        return Report(
            name="lost_tail",
            seed=orders.seed,
            asked=len(publisher.confirmed),
            took_effect=len(publisher.confirmed) - len(lost),
            lost=len(lost),
            doubled=sum(1 for key in publisher.confirmed if counts[f"{key}:end"] > 1),
            leaked=sum(load.left(broker).values()) + _unsent(),
            recovery_s=round(time.monotonic() - begun, 2),
            told=len(told),
            may_repeat=True,
            more={
                "told": len(told),
                "told_s": None if found is None else round(found.seconds, 2),
                "told_by": sum("came back with an older state" in worker.log for worker in workers),
                "bytes_cut": cut,
                "started_again": sum(1 for key in publisher.confirmed if counts[f"{key}:start"] > 1),
                "workers_gone": sum(1 for worker in workers if not worker.running),
            },
        )


def _unsent() -> int:
    return OutboxMessage.objects.filter(due_at__isnull=False).count()


def _file(broker: Broker) -> Path:
    """The file to which the broker appends."""
    return max(broker.home.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime)


class _Publisher(threading.Thread):
    """Publishes evenly over a time; keeps on asking, under the same id, while the broker is away."""

    def __init__(self, count: int, seconds: float, dice: Random) -> None:
        super().__init__(daemon=True)
        self._orders = [(f"task-{number}", dice.choice(LENGTHS), dice.getrandbits(128)) for number in range(count)]
        self._seconds = seconds
        #: Key -> when the broker said that it has it.
        self.confirmed: dict[str, float] = {}

    def run(self) -> None:
        """Publish everything."""
        try:
            self._publish()
        finally:
            connection.close()

    def _publish(self) -> None:
        begun = time.monotonic()
        for number, (key, seconds, bits) in enumerate(self._orders):
            task_id = str(UUID(int=bits, version=4))
            while True:
                try:
                    labour.work.apply_async((key, seconds), task_id=task_id)
                except BrokerUnavailable:
                    pause(0.1)
                else:
                    break
            self.confirmed[key] = time.time()
            ahead = begun + self._seconds * (number + 1) / len(self._orders) - time.monotonic()
            if ahead > 0:
                pause(ahead)
