"""``connection_cuts``: every connection to the broker is cut, again and again under load."""

from __future__ import annotations

from random import Random

from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.support.broker import Broker
from tests.support.worker import Worker


def run(orders: Orders) -> Report:
    """Play the scenario."""
    return load.play("connection_cuts", orders, _cut, (0.1, 1.5))


def _cut(broker: Broker, workers: list[Worker], dice: Random) -> None:
    for kind in ("normal", "pubsub"):
        broker.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
