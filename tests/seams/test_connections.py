"""Database connections of workers: kept between tasks, checked, and closed after whatever is not a clean success."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from django.db import connection

from tests.seams.outbox_tasks import backend, fail_in_the_database, leave_open
from tests.support import far_side
from tests.support.pooled import die, tell
from tests.support.wait import eventually
from tests.support.worker import Worker
from tests.support.zoo import end

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.seams.outbox_tasks"}


@pytest.fixture(scope="module", params=["prefork", "threads"])
def started(request: pytest.FixtureRequest, shared: Any) -> Iterator[Worker]:
    """One process or thread, so that all tasks meet the same connection."""
    with shared(Worker(pool=request.param, concurrency=1, env=ENV)) as (worker,):
        yield worker


@pytest.fixture
def worker(started: Worker, transactional_db: None) -> Worker:
    """A running worker and an empty database."""
    return started


def ask() -> list[Any]:
    """Return the worker's process and connection."""
    seen: list[Any] = backend.delay().get(timeout=30)
    return seen


def test_a_connection_outlives_a_task(worker: Worker) -> None:
    assert ask() == ask() == ask()


@pytest.mark.postgresql
@pytest.mark.parametrize("how", ["fail", "query", "open"])
def test_a_connection_is_closed_after_what_is_no_clean_success(worker: Worker, how: str) -> None:
    before = ask()
    if how == "open":
        # Its result goes with the transaction that it was written in; the one process runs the next task after it.
        leave_open.delay("x")
    else:
        sent = end.delay("fail") if how == "fail" else fail_in_the_database.delay()
        sent.get(timeout=30, propagate=False)
    after = ask()
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert ask() == after


@pytest.mark.postgresql
def test_a_connection_that_died_between_two_tasks_costs_no_task(worker: Worker) -> None:
    before = ask()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [before[1]])
        eventually(lambda: _gone(before[1]))
    after = ask()
    assert before[0] == after[0]
    assert before[1] != after[1]


def _gone(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
        return bool(cursor.fetchone()[0] == 0)


@pytest.mark.postgresql
def test_who_settles_for_a_dead_process_has_a_connection_that_works(
    transactional_db: None, start: Callable[[Worker], Worker]
) -> None:
    """The main process of prefork runs no task, so nothing else would ever ask whether its connection answers."""
    env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.pooled"}
    worker = start(Worker(pool="prefork", concurrency=1, queues=["deadly"], env=env))
    for _ in range(2):
        far_side.clear()
        die.apply_async(queue="deadly", link_error=tell.s())
        eventually(lambda: far_side.effects("settled"), 30, worker.tail)
        (settled,) = far_side.effects("settled")
        assert settled["pid"] == worker.pid
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [settled["backend"]])
        eventually(partial(_gone, settled["backend"]))
