"""Results in the database, and what becomes of them while it is away."""

from __future__ import annotations

from datetime import timedelta

import pytest
from celery import states
from celery.app.task import Context
from django.db import OperationalError, connection
from django.utils import timezone
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.runs import retention, spool
from orchestrator.runs.backend import ResultBackend
from tests.support.broker import Broker

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def backend(broker: Broker) -> ResultBackend:
    """The project's backend, on an empty broker."""
    made = get_app().backend
    assert isinstance(made, ResultBackend)
    return made


def _state(task_id: str) -> str:
    return str(TaskResult.objects.get(task_id=task_id).status)


def test_a_late_start_does_not_hide_a_success(backend: ResultBackend) -> None:
    """A second copy of a message may start after the first has succeeded."""
    backend.store_result("a", 1, states.SUCCESS)
    backend.store_result("a", {"pid": 1}, states.STARTED)
    assert _state("a") == states.SUCCESS


def test_a_new_run_after_a_failure_is_shown(backend: ResultBackend) -> None:
    """Redelivered after a failure, the task is seen to run."""
    backend.store_result("a", ValueError("x"), states.FAILURE)
    backend.store_result("a", {"pid": 1}, states.STARTED)
    assert _state("a") == states.STARTED


def test_text_that_no_database_takes_is_brought_into_a_form_that_it_takes(backend: ResultBackend) -> None:
    """An error quotes what its task was given, a worker's name may be long: the failure must be seen all the same."""
    request = Context(task="t" * 300 + "\0", hostname="w" * 300, argsrepr="('half \ud800',)", kwargsrepr="{}", id="a")
    backend.store_result("a", ValueError("x\0"), states.FAILURE, traceback="nul \0 half \ud800", request=request)
    row = TaskResult.objects.get(task_id="a")
    assert row.traceback == r"nul \x00 half \ud800"
    assert (row.task_name, row.worker) == ("t" * 255, "w" * 100)


class _Away:
    """Makes every statement fail as a database does that is shutting down."""

    def __call__(self, execute: object, sql: str, params: object, many: bool, context: object) -> None:
        raise OperationalError("terminating connection due to administrator command")


def test_an_end_waits_in_redis_while_the_database_is_away(backend: ResultBackend) -> None:
    """The result is written later, by whoever drains the spool; a mere STARTED is let go."""
    drain = spool.Drain(backend)
    drain()
    with connection.execute_wrapper(_Away()):
        backend.store_result("a", {"pid": 1}, states.STARTED)
        backend.store_result("a", 7, states.SUCCESS)
        assert spool.waiting() == 1
        with pytest.raises(OperationalError):
            drain()
    assert spool.waiting() == 1
    assert (drain(), spool.waiting()) == (1, 0)
    assert _state("a") == states.SUCCESS
    assert TaskResult.objects.get(task_id="a").result == "7"


def test_a_spooled_end_does_not_hide_a_later_one(backend: ResultBackend) -> None:
    """A failure that waited in Redis does not overwrite the success of a later run."""
    with connection.execute_wrapper(_Away()):
        backend.store_result("a", ValueError("x"), states.FAILURE)
    backend.store_result("a", 2, states.SUCCESS)
    drain = spool.Drain(backend)
    assert drain() + drain() == 1
    assert _state("a") == states.SUCCESS


def test_old_results_of_runs_that_went_well_are_pruned(backend: ResultBackend) -> None:
    """Failures stay: somebody has to see them."""
    for task_id, state in (("old", states.SUCCESS), ("new", states.SUCCESS), ("failed", states.FAILURE)):
        backend.store_result(task_id, 1 if state == states.SUCCESS else ValueError("x"), state)
    TaskResult.objects.exclude(task_id="new").update(date_done=timezone.now() - timedelta(days=31))
    assert retention.prune() == 1
    assert set(TaskResult.objects.values_list("task_id", flat=True)) == {"new", "failed"}
