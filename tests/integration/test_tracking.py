"""Tracked tasks are seen before a worker has them; what follows is seen of every task."""

from __future__ import annotations

import pytest
from django.db import transaction
from django_celery_results.models import TaskResult

from orchestrator import OrchestratedTask, errors, task
from orchestrator.celery import get_app
from tests.conftest import Platform
from tests.support.wait import eventually
from tests.support.zoo import add, shown

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def test_a_tracked_task_is_seen_from_its_publishing_to_its_end(platform: Platform) -> None:
    """Queued, delayed, running, done; an untracked one is unknown until it runs."""
    platform.relay()
    get_app().set_default()
    now, later, other = shown.delay(3.0), shown.apply_async((0.0,), countdown=4), add.delay(1, 2)
    eventually(lambda: (now.state, later.state) == ("QUEUED", "DELAYED"))
    assert other.state == "PENDING"
    row = eventually(lambda: TaskResult.objects.filter(task_id=now.id, status="QUEUED").first())
    assert row.task_name == shown.name
    platform.worker(concurrency=2, env={"ORCHESTRATOR_TEST_RESULTS_WAITING": "50000"})
    eventually(lambda: now.state == "STARTED")
    assert (now.get(timeout=20), later.get(timeout=20), other.get(timeout=20)) == (3.0, 0.0, 3)
    done = eventually(lambda: TaskResult.objects.filter(task_id=now.id, status="SUCCESS").first())
    assert done.date_created <= done.date_started <= done.date_done
    assert (done.date_done - done.date_started).total_seconds() > 2.9


def test_what_is_rolled_back_is_never_seen(platform: Platform) -> None:
    """It is shown at the commit, as it is sent then."""
    get_app().set_default()
    with pytest.raises(LookupError), transaction.atomic():
        undone = shown.delay()
        raise LookupError
    with transaction.atomic():
        kept = shown.delay()
        assert kept.state == "PENDING"
    eventually(lambda: kept.state == "QUEUED")
    assert undone.state == "PENDING"


def test_tracked_is_true_or_false() -> None:
    with pytest.raises(errors.InvalidOption, match="tracked='yes' must be True or False"):
        task(tracked="yes")(lambda: None)
    assert OrchestratedTask.tracked is False
