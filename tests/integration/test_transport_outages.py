"""The broker dies or drops its connections while tasks run: nobody exits, nothing starts twice, nothing is lost."""

from __future__ import annotations

import pytest

from tests.conftest import Platform
from tests.support import inflight, labour
from tests.support.wait import eventually

ENV = labour.ENV
POOLS = ("prefork", "solo", "threads")


def _work_through(platform: Platform, pool: str, trouble: object) -> None:
    # One slot stays free: a worker that waits for nothing would notice nothing.
    worker = platform.worker(pool=pool, concurrency=3, env=ENV)
    long = ["long-a", "long-b"] if pool != "solo" else ["long-a"]
    short = [f"short-{number}" for number in range(10)]
    for key in long:
        labour.work.delay(key, 6)
    eventually(lambda: all(labour.starts(key) for key in long), message=worker.tail)
    trouble()  # type: ignore[operator]
    for key in short:
        labour.work.delay(key)
    eventually(lambda: all(labour.ends(key) for key in (*long, *short)), 90, worker.tail)
    eventually(lambda: inflight.count(platform.broker.client) == 0, 30, worker.tail)
    assert worker.running, worker.tail()
    assert pool == "solo" or "Connection to broker lost" in worker.log
    assert {key: labour.starts(key) for key in (*long, *short)} == dict.fromkeys((*long, *short), 1)


@pytest.mark.parametrize("pool", POOLS)
def test_a_killed_broker_costs_nothing(platform: Platform, pool: str) -> None:
    """SIGKILL and restart with ``appendfsync always``."""
    platform.broker.client.config_set("appendfsync", "always")

    def restart() -> None:
        platform.broker.kill()
        platform.broker.start()

    _work_through(platform, pool, restart)


@pytest.mark.parametrize("pool", POOLS)
def test_cut_connections_cost_nothing(platform: Platform, pool: str) -> None:
    """``CLIENT KILL``, three times in a row."""

    def cut() -> None:
        for _ in range(3):
            for kind in ("normal", "pubsub"):
                platform.broker.client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    _work_through(platform, pool, cut)
