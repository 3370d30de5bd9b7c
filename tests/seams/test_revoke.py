"""What a person calls off needs no person: it is recorded, not buried."""

from __future__ import annotations

import pytest
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.deadletters.models import DeadLetter
from tests.conftest import Platform
from tests.support import far_side, zoo
from tests.support.broker import Broker
from tests.support.wait import eventually
from tests.support.worker import ROWS_AT_ONCE


def test_a_revoked_task_is_not_buried(platform: Platform) -> None:
    """One task revoked before it started, one killed while it ran: both REVOKED, neither in the inbox."""
    worker = platform.worker(concurrency=1)
    platform.relay()
    running = zoo.end.apply_async(("soft_limit",), {"key": "running", "seconds": 120})
    waiting = zoo.end.apply_async(("succeed",), {"key": "waiting"})
    eventually(lambda: far_side.effects("running"), 60)
    get_app().control.revoke(waiting.id)
    get_app().control.revoke(running.id, terminate=True, signal="SIGKILL")
    # The one that fails last shows that the relay has caught up.
    zoo.end.apply_async(("fail",), {"key": "last"})
    eventually(DeadLetter.objects.exists, 60, worker.tail)
    status = dict(TaskResult.objects.values_list("task_id", "status"))
    assert (status[running.id], status[waiting.id]) == ("REVOKED", "REVOKED")
    assert [row.error_message for row in DeadLetter.objects.all()] == ["no such order"]
    assert not far_side.effects("waiting")


@pytest.mark.parametrize("pool", ["swarm", "solo", "prefork"])
def test_a_task_stays_called_off_for_workers_that_start_later(platform: Platform, pool: str) -> None:
    """Nobody was there to be told; nor was anybody when it was called off by its result object."""
    gone = [zoo.end.apply_async(("succeed",), {"key": f"gone-{number}"}) for number in range(3)]
    get_app().control.revoke([gone[0].id, gone[1].id])
    gone[2].revoke()
    zoo.end.apply_async(("succeed",), {"key": "stays"})
    worker = platform.worker(pool=pool, concurrency=1, env=ROWS_AT_ONCE)
    eventually(lambda: far_side.effects("stays"), 60, worker.tail)
    rows = TaskResult.objects.filter(task_id__in=[one.id for one in gone], status="REVOKED")
    eventually(lambda: rows.count() == 3, 30, worker.tail)
    assert not any(far_side.effects(f"gone-{number}") for number in range(3))
    assert platform.broker.client.llen("celery") == 0


def test_what_cannot_be_kept_is_not_said_to_be_called_off(broker: Broker) -> None:
    """The caller is told, and can do it again."""
    broker.kill()
    try:
        with pytest.raises(StoreUnavailable):
            get_app().control.revoke("some-id")
    finally:
        broker.start()
