"""Limits while workers die, the broker restarts and the counts are away; and on kombu's own transport."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django_celery_results.models import TaskResult

from orchestrator.deadletters.models import DeadLetter
from orchestrator.limits import services
from tests.conftest import Platform
from tests.support import far_side, inflight, limited
from tests.support.broker import Broker
from tests.support.limited import alone, brisk, slow
from tests.support.wait import eventually

pytestmark = [pytest.mark.django_db(transaction=True)]

LEASE = 3.0
ENV = {**limited.ENV, "ORCHESTRATOR_TEST_LEASE": str(LEASE)}


def done(key: str) -> bool:
    return bool(far_side.effects(key))


def test_parked_messages_outlive_everybody(platform: Platform) -> None:
    """All workers are killed, the broker too; what waited is released and runs once."""
    platform.broker.client.config_set("appendfsync", "always")
    first = platform.worker(concurrency=2, env=ENV)
    for number in range(8):
        slow.delay(f"{number}", "a")
    eventually(lambda: limited.parked() == 6, message=first.tail)
    eventually(lambda: not inflight.count(platform.broker.client))
    first.kill_group()
    platform.broker.kill()
    platform.broker.start()
    assert limited.parked() == 6
    second = platform.worker(concurrency=2, env=ENV)
    services.change("slow", "100/s")
    eventually(lambda: len(far_side.counts()) == 8, 20, second.tail)
    eventually(lambda: not limited.parked() and not inflight.count(platform.broker.client))
    assert set(far_side.counts().values()) == {1}


def test_a_dead_workers_slot_is_free_within_its_lease(platform: Platform) -> None:
    """Whoever waits for it starts within lease + 2 s; nobody has to ask."""
    doomed = platform.worker(env=ENV)
    alone.delay("dead", until="never")
    eventually(lambda: done("dead:start"), message=doomed.tail)
    other = platform.worker(env=ENV)
    alone.delay("next")
    eventually(lambda: limited.parked() == 1, message=other.tail)
    doomed.kill_group()
    killed = time.monotonic()
    eventually(lambda: done("next:start"), LEASE + 5, other.tail)
    assert time.monotonic() - killed < LEASE + 2
    far_side.record("never")
    eventually(lambda: done("dead:end"), LEASE + 10, other.tail)


def test_without_lines_messages_are_deferred(platform: Platform) -> None:
    """On kombu's own transport the same limit holds, in about the same time, without a retry or a letter."""
    worker = platform.worker(concurrency=2, env={**ENV, "ORCHESTRATOR_TRANSPORT": "stock"})
    for number in range(30):
        brisk.delay(f"{number:02}")
    eventually(lambda: len(far_side.counts()) == 30, 20, worker.tail)
    times = sorted(effect["at"] for effect in far_side.effects())
    assert all(later - first > 0.95 for first, later in zip(times, times[20:], strict=False))
    assert set(far_side.counts().values()) == {1}
    assert not limited.parked()
    assert not DeadLetter.objects.exists()
    alone.delay("a", until="go")
    eventually(lambda: done("a:start"))
    alone.delay("b")
    eventually(lambda: "deferred for" in worker.log)
    far_side.record("go")
    eventually(lambda: done("b:end"), 20, worker.tail)
    assert [effect["retries"] for effect in far_side.effects("b:start")] == [0]


# --- the counts are away -------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Broker]:
    """A Redis of its own for counts, so that it can go while the broker stays."""
    made = Broker(tmp_path / "state").start()
    yield made
    made.stop()


@pytest.mark.parametrize("fail", ["closed", "open"])
def test_limits_that_cannot_be_asked(platform: Platform, state: Broker, fail: str) -> None:
    """Closed, messages wait without a retry and run once it is back; open, they run without their limits."""
    env = {
        **ENV,
        "ORCHESTRATOR_TRANSPORT": "stock",
        "ORCHESTRATOR_STATE_URL": state.url,
        "ORCHESTRATOR_TEST_LIMITS_FAIL": fail,
    }
    worker = platform.worker(env=env)
    state.kill()
    sent = [slow.delay(f"{number}", "a") for number in range(3)]
    if fail == "open":
        eventually(lambda: len(far_side.counts()) == 3, message=worker.tail)
        assert worker.log.count("runs without its limits") == 3
        return
    eventually(lambda: worker.log.count("its limits cannot be asked") >= 4, message=worker.tail)
    assert not far_side.counts()
    state.start()
    eventually(lambda: len(far_side.counts()) == 2, message=worker.tail)
    assert not DeadLetter.objects.exists()
    assert not TaskResult.objects.filter(task_id__in=[one.id for one in sent], status="FAILURE").exists()
