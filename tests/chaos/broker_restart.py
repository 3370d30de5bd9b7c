"""``broker_restart``: SIGKILL and restart of a broker that syncs every write, again and again under load."""

from __future__ import annotations

from random import Random

from tests.chaos import load
from tests.chaos.catalogue import Orders, Report
from tests.support.broker import Broker
from tests.support.worker import Worker


def run(orders: Orders) -> Report:
    """Play the scenario."""
    return load.play("broker_restart", orders, _restart, (0.5, 3.0))


def _restart(broker: Broker, workers: list[Worker], dice: Random) -> None:
    broker.kill()
    broker.start()
    broker.client.config_set("appendfsync", "always")
