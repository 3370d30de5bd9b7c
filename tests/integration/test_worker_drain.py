"""A worker that is told to stop in the middle of a stream of tasks: none is lost, none is run twice, nobody waits."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.conftest import Platform
from tests.support import far_side, inflight
from tests.support.wait import eventually
from tests.support.zoo import add, end

COUNT = 300


@pytest.mark.parametrize("pool", ["swarm", "prefork", "solo", "threads"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_is_exact(platform: Platform, pool: str, number: signal.Signals) -> None:
    """Each message either took effect and is gone, or is in its queue again."""
    worker = platform.worker(pool=pool, concurrency=2)
    for index in range(COUNT):
        end.delay("succeed", key=str(index))
    eventually(lambda: len(far_side.counts()) > COUNT // 10, 60, "the stream runs")
    began = time.monotonic()
    assert worker.stop(sig=number) == 0
    took = time.monotonic() - began
    ran = far_side.counts()
    waiting = platform.broker.client.llen("celery")
    assert (len(ran) + waiting, inflight.count(platform.broker.client)) == (COUNT, 0)
    assert set(ran.values()) == {1}
    # Celery's own way takes 30 s whenever it hangs, which is often under load.
    assert took < 25


@pytest.mark.parametrize("pool", ["swarm", "prefork"])
def test_a_second_worker_finishes_what_the_first_left(platform: Platform, pool: str) -> None:
    """What a deploy is made of."""
    first = platform.worker(pool=pool, concurrency=2)
    for index in range(COUNT):
        end.delay("succeed", key=str(index))
    eventually(lambda: len(far_side.counts()) > COUNT // 10, 60, "the stream runs")
    first.kill(signal.SIGTERM)
    platform.worker(pool=pool, concurrency=1)
    first.wait()
    eventually(lambda: len(far_side.counts()) == COUNT, 60, lambda: f"all ran, so far {len(far_side.counts())}")
    assert set(far_side.counts().values()) == {1}


@pytest.mark.parametrize("pool", ["swarm", "prefork"])
def test_a_stop_while_the_broker_is_away(platform: Platform, pool: str) -> None:
    """A worker that cannot reach its broker still ends when told to."""
    worker = platform.worker(pool=pool, concurrency=1)
    platform.broker.stop()
    try:
        worker.wait_for_log("[Cc]onnection .*(lost|refused|error)|Cannot connect")
        assert worker.stop() == 0
    finally:
        platform.broker.start()


@pytest.mark.parametrize("pool", ["swarm", "prefork"])
def test_a_stop_waits_for_a_long_task(platform: Platform, pool: str) -> None:
    """The task ends as if nothing had happened; a signal repeated by an impatient supervisor changes nothing."""
    worker = platform.worker(pool=pool, concurrency=1)
    result = end.delay("soft_limit", key="long", seconds=2)
    eventually(lambda: far_side.effects("long"), 60, "it runs")
    worker.kill(signal.SIGTERM)
    worker.kill(signal.SIGTERM)
    worker.wait_for_log("waits for 1 running task")
    assert worker.wait() == 0
    result.get(timeout=10)
    assert inflight.count(platform.broker.client) == 0


def test_pool_children_do_not_inherit_the_handler(platform: Platform) -> None:
    """SIGTERM to a child ends that child, as Celery means it; the worker replaces it and goes on."""
    worker = platform.worker(pool="prefork", concurrency=1)
    (child,) = worker.wait_for_children(1)
    os.kill(child, signal.SIGTERM)
    eventually(lambda: worker.pool_children() not in ([], [child]), 60, "a new child")
    assert add.delay(2, 2).get(timeout=50) == 4
    assert worker.stop() == 0
