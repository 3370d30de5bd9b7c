"""What a dead worker held runs elsewhere; what a living one holds is left alone."""

from __future__ import annotations

import time

import pytest

from orchestrator.celery import get_app
from orchestrator.deadletters.models import DeadLetter
from tests.conftest import Platform
from tests.support import far_side, inflight, labour
from tests.support.wait import eventually
from tests.support.worker import Worker

LEASE = 3.0
ENV = {**labour.ENV, "ORCHESTRATOR_TEST_LEASE": str(LEASE), "ORCHESTRATOR_TEST_DELIVERIES": "2"}


@pytest.mark.parametrize("pool", ["swarm", "prefork"])
def test_tasks_of_a_killed_worker_run_elsewhere(platform: Platform, pool: str) -> None:
    """SIGKILL of a whole worker: its running and its waiting tasks run on another one within lease + 5 s."""
    doomed = platform.worker(pool=pool, concurrency=2, env=ENV)
    keys = [f"job-{number}" for number in range(6)]
    for key in keys:
        labour.work.delay(key, 8 if key in keys[:2] else 0)
    eventually(lambda: all(labour.starts(key) for key in keys[:2]), message=doomed.tail)
    second = platform.worker(pool=pool, concurrency=2, env=ENV)
    eventually(lambda: all(labour.ends(key) for key in keys[2:]), message=second.tail)
    doomed.kill_group()
    killed = time.monotonic()
    eventually(lambda: all(labour.starts(key) == 2 for key in keys[:2]), LEASE + 5, second.tail)
    assert time.monotonic() - killed < LEASE + 5
    eventually(lambda: inflight.count(platform.broker.client) == 0, 60, second.tail)
    assert [labour.ends(key) for key in keys] == [1] * 6


def test_a_task_longer_than_the_lease_runs_once(platform: Platform) -> None:
    """Leases of living workers are renewed, also where the body blocks its process."""
    workers = [platform.worker(pool=pool, concurrency=1, env=ENV) for pool in ("swarm", "prefork", "solo", "threads")]
    keys = ["one", "two", "three", "four"]
    for key in keys:
        labour.work.delay(key, 3 * LEASE)
    eventually(lambda: all(labour.ends(key) for key in keys), 60, workers[0].tail)
    eventually(lambda: inflight.count(platform.broker.client) == 0)
    assert [labour.starts(key) for key in keys] == [1] * 4
    assert not any("gave no sign of life" in worker.log for worker in workers)


def test_a_task_that_kills_its_worker_ends_in_the_inbox(platform: Platform) -> None:
    """After ``MAX_DELIVERIES`` deaths it lies there as poison; its neighbours ran, and were not charged."""
    worker = Worker(pool="solo", env=ENV)
    platform.relay(env=ENV)
    for number in range(3):
        labour.work.delay(f"before-{number}")
    poison = labour.kill_own_process.delay("poison")
    for number in range(3):
        labour.work.delay(f"after-{number}")

    def buried() -> bool:
        if not worker.running:
            worker.launch()
        return DeadLetter.objects.exists()

    eventually(buried, 120, worker.tail)
    row = DeadLetter.objects.get()
    assert (row.reason, row.verdict, row.task_id) == ("poison", "lost", poison.id)
    # Once perhaps in company, which charges nobody, then alone until the limit.
    assert 2 <= len(far_side.effects("poison")) <= 3
    names = [f"{when}-{number}" for when in ("before", "after") for number in range(3)]
    eventually(lambda: all(labour.ends(name) for name in names), 60, worker.tail)
    assert get_app().AsyncResult(poison.id).state == "FAILURE"
    worker.stop()
