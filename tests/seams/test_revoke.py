"""What a person calls off needs no person: it is recorded, not buried."""

from __future__ import annotations

from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.deadletters.models import DeadLetter
from tests.conftest import Platform
from tests.support import far_side, zoo
from tests.support.wait import eventually


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
