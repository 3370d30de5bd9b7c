"""Results: safe in Redis, seen wherever they lie, written in bulk, and what becomes of them while a store is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis
from celery import states
from celery.app.task import Context
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_results.models import TaskResult

import orchestrator
from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.progress import Record
from orchestrator.runs import drain, retention, rows
from orchestrator.runs.backend import ResultBackend
from orchestrator.runs.outgoing import outgoing, store
from tests.support.broker import Broker
from tests.support.wait import eventually

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def backend(broker: Broker) -> Iterator[ResultBackend]:
    """The project's backend, on an empty broker."""
    made = get_app().backend
    assert isinstance(made, ResultBackend)
    made._cache.clear()
    yield made
    made._cache.clear()


def write_all() -> None:
    """Do what relays do until nothing waits."""
    eventually(lambda: drain.drain(store()) >= 0 and store().size() == 0)


def attempt(retries: int, task_id: str = "a") -> Context:
    """Return what the backend is told of an attempt."""
    return Context(task="shop.ship", id=task_id, retries=retries, hostname="w@x", argsrepr="()", kwargsrepr="{}")


def _state(task_id: str) -> str:
    write_all()
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
    write_all()
    row = TaskResult.objects.get(task_id="a")
    assert row.traceback == r"nul \x00 half \ud800"
    assert (row.task_name, row.worker) == ("t" * 255, "w" * 100)


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(
    ("reports", "stands"),
    [
        ([("SUCCESS", 0), ("STARTED", 0)], "SUCCESS"),
        ([("SUCCESS", 0), ("STARTED", 1)], "SUCCESS"),
        ([("SUCCESS", 0), ("FAILURE", 0)], "SUCCESS"),
        ([("FAILURE", 0), ("SUCCESS", 0)], "SUCCESS"),
        ([("RETRY", 1), ("STARTED", 0)], "RETRY"),
        ([("RETRY", 1), ("STARTED", 1)], "RETRY"),
        ([("RETRY", 0), ("STARTED", 1)], "STARTED"),
        ([("FAILURE", 1), ("STARTED", 0)], "FAILURE"),
        ([("FAILURE", 0), ("STARTED", 0)], "STARTED"),
        ([("STARTED", 1), ("RETRY", 0)], "STARTED"),
        ([("STARTED", 0), ("QUEUED", 0)], "STARTED"),
        ([("QUEUED", 0), ("STARTED", 0)], "STARTED"),
        ([("STARTED", 0), ("PROGRESS", 0)], "PROGRESS"),
        ([("STARTED", 0), ("REVOKED", 0)], "REVOKED"),
    ],
)
def test_what_stands_after_two_reports(
    backend: ResultBackend, reports: list[tuple[str, int]], stands: str, written: bool
) -> None:
    """The same rule in Redis, in the database and for readers, wherever the first report lies by then."""
    for status, retries in reports:
        value = ValueError("x") if status in ("FAILURE", "RETRY", "REVOKED") else 1
        backend.store_result("a", value, status, request=attempt(retries))
        # What is no end is sent without waiting for an answer.
        eventually(lambda: backend.get_task_meta("a", cache=False)["status"] != "PENDING")
        if written:
            write_all()
    assert backend.get_task_meta("a", cache=False)["status"] == stands
    assert _state("a") == stands


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(("began", "stands"), [(5.0, "FAILURE"), (-5.0, "STARTED")])
def test_a_start_that_is_told_late_does_not_hide_how_its_own_run_failed(
    backend: ResultBackend, began: float, stands: str, written: bool
) -> None:
    """A chord whose member is seen to run would wait for it for ever; a run that began later is a new one."""
    failed = attempt(0)
    failed.orchestrator_started = time.time() + began
    backend.store_result("a", ValueError("x"), states.FAILURE, request=failed)
    if written:
        write_all()
    backend.store_result("a", {"pid": 1}, states.STARTED, request=attempt(0))
    # What is no end is sent without waiting for an answer; what comes after it on the same line has one.
    backend.store_result("b", 1, states.SUCCESS)
    assert backend.get_task_meta("a", cache=False)["status"] == stands
    assert _state("a") == stands


def test_two_relays_that_write_in_the_wrong_order_do_no_harm(backend: ResultBackend) -> None:
    """One took the start, stalled, and writes it after another wrote the end."""
    backend.store_result("a", {"pid": 1}, states.STARTED, request=attempt(0))
    taken = eventually(lambda: store().take(10))
    backend.store_result("a", 7, states.SUCCESS, request=attempt(0))
    store().settle(taken)
    write_all()
    rows.write(taken)
    assert _state("a") == states.SUCCESS
    assert TaskResult.objects.get(task_id="a").date_started is not None


def test_what_changes_while_it_is_written_is_written_again(backend: ResultBackend) -> None:
    """A relay forgets the report that it wrote, not the one that came meanwhile."""
    backend.store_result("a", {"pid": 1}, states.STARTED)
    taken = eventually(lambda: store().take(10))
    rows.write(taken)
    backend.store_result("a", 7, states.SUCCESS)
    store().settle(taken)
    assert store().size() == 1
    assert _state("a") == states.SUCCESS
    assert store().size() == 0


def test_a_thousand_states_take_one_call_and_one_query(backend: ResultBackend) -> None:
    """Half of them lie in Redis, half in the database."""
    ids = [f"id-{number}" for number in range(1000)]
    for task_id in ids[:500]:
        backend.store_result(task_id, 1, states.SUCCESS)
    write_all()
    for task_id in ids[500:]:
        backend.store_result(task_id, 2, states.SUCCESS)
    with CaptureQueriesContext(connection) as asked:
        found = get_app().GroupResult("g", [get_app().AsyncResult(task_id) for task_id in ids])
        assert found.completed_count() == 1000
        assert found.successful()
        assert found.join() == [1] * 500 + [2] * 500
    assert len(asked) == 3, asked.captured_queries
    with CaptureQueriesContext(connection) as asked:
        assert [result.state for result in orchestrator.results([*ids, "unheard of"])] == ["SUCCESS"] * 1000 + [
            "PENDING"
        ]
    assert len(asked) == 1, asked.captured_queries


def test_wait_and_run_time_are_kept(backend: ResultBackend) -> None:
    """Created when it was published, started when its body was, done when it ended."""
    request = attempt(0)
    request.update(orchestrator={"at": time.time() - 60})
    request.orchestrator_started = time.time() - 20
    backend.store_result("a", 1, states.SUCCESS, request=request)
    write_all()
    row = TaskResult.objects.get(task_id="a")
    assert 39 < (row.date_started - row.date_created).total_seconds() < 41
    assert 19 < (row.date_done - row.date_started).total_seconds() < 21


class _Away:
    """Makes every statement fail as a database does that is shutting down."""

    def __call__(self, execute: object, sql: str, params: object, many: bool, context: object) -> None:
        raise OperationalError("terminating connection due to administrator command")


def test_results_wait_in_redis_while_the_database_is_away(backend: ResultBackend) -> None:
    """They are seen all the same, and written once it is back."""
    with connection.execute_wrapper(_Away()):
        backend.store_result("a", 7, states.SUCCESS)
        assert backend.get_task_meta("a")["result"] == 7
        with pytest.raises(OperationalError):
            eventually(lambda: drain.drain(store()))
    assert store().size() == 1
    assert _state("a") == states.SUCCESS
    assert TaskResult.objects.get(task_id="a").result == "7"


def test_a_start_is_told_in_time_that_comes_right_after_another(backend: ResultBackend) -> None:
    """The first one wakes who tells of starts, and is over before he looks; he must look again for the second."""
    told = outgoing()
    told.begin("short", lambda: Record("short", states.STARTED, {}, at=time.time()))
    told.take([], "short")
    assert told.safe
    looks = told.due()
    assert looks < time.monotonic() + 1
    told.begin("long", lambda: Record("long", states.STARTED, {}, at=time.time()))
    assert told.due() < looks + 1
    eventually(lambda: told.flush() and store().read(["short", "long"]).keys() == {"long"})
    assert told.safe


def test_an_end_goes_to_the_database_while_redis_is_away(backend: ResultBackend, broker: Broker) -> None:
    """A mere start is let go; an end that nobody takes is told to whoever acknowledges."""
    broker.stop()
    try:
        backend.store_result("a", {"pid": 1}, states.STARTED)
        assert not TaskResult.objects.exists()
        backend.store_result("a", 7, states.SUCCESS)
        assert TaskResult.objects.get(task_id="a").status == states.SUCCESS
        assert backend.get_task_meta("a", cache=False)["result"] == 7
        with connection.execute_wrapper(_Away()), pytest.raises(StoreUnavailable, match="ORCHESTRATOR_STATE_URL"):
            backend.store_result("b", 7, states.SUCCESS)
    finally:
        broker.start()
    eventually(lambda: backend.store_result("c", 7, states.SUCCESS) is not None and store().size())


def test_what_waits_is_bounded_without_a_relay(backend: ResultBackend, settings: object) -> None:
    """Beyond the bound, whoever stores a result writes some."""
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "RESULTS_WAITING": 0}  # type: ignore[attr-defined]
    conf.settings.cache_clear()
    backend.store_result("a", 7, states.SUCCESS)
    assert TaskResult.objects.get(task_id="a").status == states.SUCCESS
    assert store().size() == 0


def test_one_record_that_the_database_refuses_does_not_hold_up_the_others(backend: ResultBackend) -> None:
    """It stays in Redis, where it can be read; the rest is written."""
    good = [
        Record(f"good-{n}", "SUCCESS", {"content_type": "application/json", "content_encoding": "utf-8"}, 1.0)
        for n in (1, 2)
    ]
    bad = Record("bad", "SUCCESS", {}, 1.0)
    store().put((record.task_id, record.dumps()) for record in (*good, bad))
    eventually(lambda: drain.drain(store()))
    assert set(TaskResult.objects.values_list("task_id", flat=True)) == {"good-1", "good-2"}
    assert store().size() == 1


def test_a_restarted_redis_takes_the_next_result(backend: ResultBackend, broker: Broker) -> None:
    """The connection that is kept for results died with it."""
    backend.store_result("a", 1, states.SUCCESS)
    redis.Redis.from_url(broker.url).client_kill_filter(_type="normal", skipme=True)
    backend.store_result("b", 2, states.SUCCESS)
    assert store().size() == 2


def test_old_results_of_runs_that_went_well_are_pruned(backend: ResultBackend) -> None:
    """Failures stay: somebody has to see them."""
    for task_id, state in (("old", states.SUCCESS), ("new", states.SUCCESS), ("failed", states.FAILURE)):
        backend.store_result(task_id, 1 if state == states.SUCCESS else ValueError("x"), state)
    write_all()
    TaskResult.objects.exclude(task_id="new").update(date_done=timezone.now() - timedelta(days=31))
    assert retention.prune() == 1
    assert set(TaskResult.objects.values_list("task_id", flat=True)) == {"new", "failed"}
