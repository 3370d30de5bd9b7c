"""The broker dies or drops its connections while tasks run: nobody exits, nothing starts twice, nothing is lost."""

from __future__ import annotations

import pytest

from orchestrator.deadletters.models import DeadLetter
from orchestrator.launch.ports import free_port
from tests.conftest import Platform
from tests.support import inflight, labour
from tests.support.wait import eventually, stays

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


def test_a_broker_that_refuses_to_write_is_waited_for(platform: Platform) -> None:
    """A replica refuses claims; once it is primary again, the same worker goes on."""
    worker = platform.worker(concurrency=1, env=ENV)
    client = platform.broker.client
    labour.work.delay("before")
    eventually(lambda: labour.ends("before"), message=worker.tail)
    client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    try:
        worker.wait_for_log("Connection to broker lost|Cannot connect")
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    labour.work.delay("after")
    eventually(lambda: labour.ends("after"), 60, worker.tail)
    assert worker.running


def test_what_is_no_message_goes_to_the_inbox(platform: Platform) -> None:
    """Byte for byte, and whoever comes behind it runs."""
    for rubbish in (b"\xff\xfe not even text", b"[]", b'{"body": "e30="}'):
        platform.broker.client.lpush("celery", rubbish)
    labour.work.delay("behind")
    worker = platform.worker(concurrency=1, env=ENV)
    platform.relay()
    eventually(lambda: labour.ends("behind"), 60, worker.tail)
    eventually(lambda: DeadLetter.objects.count() == 3, 60, worker.tail)
    assert {row.reason for row in DeadLetter.objects.all()} == {"undecodable"}
    assert {row.queue for row in DeadLetter.objects.all()} == {"celery"}
    assert b"\xff\xfe not even text" in {row.message.body for row in DeadLetter.objects.all()}
    eventually(lambda: inflight.count(platform.broker.client) == 0)


def test_a_broker_away_for_longer_than_the_lease_doubles_nothing_that_still_runs(platform: Platform) -> None:
    """Nobody could renew, so everybody gets another lease; another worker, there from the start, takes nothing over."""
    env = {**ENV, "ORCHESTRATOR_TEST_LEASE": "3"}
    workers = [platform.worker(concurrency=1, env=env) for _ in range(2)]
    platform.broker.client.config_set("appendfsync", "always")
    labour.work.delay("long", 16)
    eventually(lambda: labour.starts("long"), message=workers[0].tail)
    platform.broker.kill()
    stays(lambda: labour.starts("long") == 1, 7)
    platform.broker.start()
    eventually(lambda: labour.ends("long"), 60, workers[0].tail)
    eventually(lambda: inflight.count(platform.broker.client) == 0, 30, workers[0].tail)
    assert (labour.starts("long"), labour.ends("long")) == (1, 1)
    assert all(worker.running for worker in workers)
