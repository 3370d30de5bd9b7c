"""What must come through whatever lies between a worker and its database."""

from __future__ import annotations

from django_celery_results.models import TaskResult

from tests.seams.outbox_tasks import order
from tests.support import far_side
from tests.support.outbox import waiting
from tests.support.wait import eventually
from tests.support.worker import Worker


def check_results_and_outbox(worker: Worker) -> None:
    """Results are written, and of what tasks publish in transactions that runs which commits."""
    sent = [order.delay(f"kept-{number}") for number in range(5)]
    dropped = [order.delay(f"dropped-{number}", fail=True) for number in range(5)]
    eventually(lambda: sorted(far_side.counts()) == [f"kept-{number}" for number in range(5)], 30, worker.tail)
    written = TaskResult.objects.filter(task_id__in=[each.id for each in (*sent, *dropped)])
    eventually(lambda: written.count() == 10, 30, worker.tail)
    assert written.filter(status="SUCCESS").count() == 5
    assert not waiting().exists()
