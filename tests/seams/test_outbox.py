"""The outbox with real workers: what a body publishes waits for its transaction, what a worker publishes does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import chain, chord, group
from django.db import connection, transaction
from django_celery_results.models import TaskResult

from orchestrator.audit.models import AuditEntry
from orchestrator.deadletters.models import DeadLetter
from orchestrator.outbox import sending, sweep
from orchestrator.outbox.models import OutboxMessage
from tests.seams.outbox_tasks import commit_and_die, leave_open, order, order_at_last
from tests.support import far_side
from tests.support.outbox import waiting
from tests.support.wait import eventually, stays
from tests.support.worker import ROWS_AT_ONCE, Relay, Worker
from tests.support.zoo import add, collect, follow

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.seams.outbox_tasks", "ORCHESTRATOR_TEST_OUTBOX_GRACE": "0.5"}


@pytest.fixture(scope="module")
def started(shared: Any) -> Iterator[Worker]:
    """One worker for all tests here that let it live."""
    with shared(Worker(concurrency=2, env={**ENV, **ROWS_AT_ONCE})) as (worker,):
        yield worker


@pytest.fixture
def worker(started: Worker, transactional_db: None) -> Worker:
    """A running worker, an empty database, nothing on the far side."""
    sending.rest(0)
    far_side.clear()
    return started


def ran(key: str) -> int:
    return len(far_side.effects(key))


def test_a_body_publishes_with_its_transaction(worker: Worker) -> None:
    assert order.delay("kept").get(timeout=30) == "kept"
    eventually(lambda: ran("kept"))
    with pytest.raises(LookupError):
        order.delay("undone", fail=True).get(timeout=30)
    stays(lambda: not ran("undone"), 1.0)
    assert not waiting().exists()


@pytest.mark.parametrize("how", ["retries", "retry", "defer", "replace"])
def test_what_ends_an_attempt_is_not_undone_with_its_transaction(worker: Worker, how: str) -> None:
    """A retry that waited in the transaction which its own exception rolls back would be lost."""
    key = f"again-{how}"
    sent = order_at_last.delay(key, how)
    row = eventually(lambda: TaskResult.objects.filter(task_id=sent.id, status="SUCCESS").first(), message=how)
    assert row is not None
    if how == "replace":
        assert ran(key) == 1
    else:
        assert AuditEntry.objects.filter(target=key).count() == 1


def test_successors_of_a_task_that_left_its_transaction_open_run(worker: Worker) -> None:
    """They are the worker's, not the body's; and the next task starts on a clean connection."""
    chain(leave_open.s("left"), follow.s("after")).delay()
    eventually(lambda: ran("after"))
    assert order.delay("next").get(timeout=30) == "next"
    eventually(lambda: ran("next"))


def test_canvas_from_a_transaction_runs_to_its_end(worker: Worker) -> None:
    with transaction.atomic():
        chain(add.s(1, 2), add.s(3), follow.s("chain")).delay()
        group(follow.s(1, "one"), follow.s(1, "two")).apply_async()
        chord([add.s(1, 2), add.s(3, 4)], collect.s("chord"))()
    for key in ("chain", "one", "two", "chord"):
        eventually(lambda key=key: ran(key), message=key)
    with pytest.raises(LookupError), transaction.atomic():
        chord([add.s(1, 2), add.s(3, 4)], collect.s("no chord"))()
        raise LookupError
    stays(lambda: not ran("no chord"), 1.0)


def test_a_message_that_is_sent_twice_runs_once(worker: Worker) -> None:
    with transaction.atomic():
        sent = follow.delay(1, "once")
        row = OutboxMessage.objects.get()
        connection.run_on_commit = []
    for _ in range(3):
        sending.send(row)
    eventually(lambda: TaskResult.objects.filter(task_id=sent.id, status="SUCCESS").exists())
    # Behind the copies in the one queue, so they were seen by then.
    assert [add.delay(1, 1).get(timeout=30) for _ in range(2)] == [2, 2]
    assert ran("once") == 1
    assert TaskResult.objects.get(task_id=sent.id).status == "SUCCESS"
    assert not DeadLetter.objects.exists()


def test_a_process_killed_between_commit_and_publish_loses_nothing(worker: Worker, start: Callable[[Any], Any]) -> None:
    start(Relay(env={**ENV, **ROWS_AT_ONCE}))
    commit_and_die.delay("survivor")
    eventually(lambda: ran("survivor"), 60)
    eventually(lambda: not waiting().exists())
    assert ran("survivor") == 1


def test_a_relay_sweeps_what_is_left_while_the_broker_was_away(worker: Worker) -> None:
    with transaction.atomic():
        follow.delay(1, "swept")
        connection.run_on_commit = []
    eventually(lambda: sweep.sweep())
    eventually(lambda: ran("swept"))
