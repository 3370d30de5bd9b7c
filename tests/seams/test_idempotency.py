"""Under one key a task takes effect once; everybody else gets its result. Real workers, real deaths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, chord
from django_celery_results.models import TaskResult

from orchestrator.contracts.errors import InvalidOption
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.idempotency.models import IdempotencyRecord
from tests.support import environment, far_side
from tests.support.broker import Broker
from tests.support.charges import book, ledger, notify, pay
from tests.support.wait import eventually, stays
from tests.support.worker import ROWS_AT_ONCE, Relay, Worker
from tests.support.zoo import add, collect, follow

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def processes(shared: Any) -> Iterator[tuple[Worker, Relay]]:
    """One worker and one relay for most tests here: starting them is the slow part."""
    with shared(Worker(pool="swarm", concurrency=2, env=ROWS_AT_ONCE), Relay()) as processes:
        yield processes


@pytest.fixture
def running(processes: tuple[Worker, Relay], transactional_db: None) -> Worker:
    """Running processes, an empty database, nothing on the far side, no keys."""
    far_side.clear()
    client = environment.world().broker.client
    for key in client.keys("orchestrator:*idempotency:*"):
        client.delete(key)
    return processes[0]


def paid(order: str) -> int:
    return len(far_side.effects(f"pay-{order}"))


def letter(**filters: Any) -> DeadLetter:
    """Return the one open letter, once it is there."""
    return eventually(lambda: DeadLetter.objects.filter(state=State.OPEN, **filters).first(), message=f"{filters}")


def value(sent: Any) -> Any:
    return sent.get(timeout=60)


# --- once ---------------------------------------------------------------------------


def test_a_second_run_returns_the_recorded_result(running: Worker) -> None:
    """Same arguments, however they are written; another key is another effect."""
    first = value(pay.delay("a"))
    assert first == {"receipt": "a-1", "amount": 1}
    assert value(pay.delay("a")) == first
    assert value(pay.delay(order="a", amount=1)) == first
    assert value(pay.delay("b")) == {"receipt": "b-1", "amount": 1}
    assert paid("a") == paid("b") == 1
    assert running.log.count("returns the recorded result") >= 2


def test_a_second_run_waits_its_turn_without_a_slot_or_a_retry(running: Worker) -> None:
    """While the first lives the second is put back; the other process stays free."""
    first = pay.delay("a", until="go")
    eventually(lambda: paid("a") == 1)
    others = [pay.delay("a", until="go") for _ in range(3)]
    assert value(add.delay(1, 2)) == 3
    stays(lambda: paid("a") == 1, 1.0)
    far_side.record("go")
    assert [value(sent) for sent in (first, *others)] == [{"receipt": "a-1", "amount": 1}] * 4
    assert paid("a") == 1
    assert not DeadLetter.objects.exists()
    statuses = TaskResult.objects.values_list("status", flat=True)
    assert set(statuses) == {"SUCCESS"}


def test_chains_and_chords_go_on_with_the_replayed_value(running: Worker) -> None:
    value(pay.delay("a"))
    chain(pay.s("a"), follow.s("after")).delay()
    eventually(lambda: far_side.effects("after"))
    assert far_side.effects("after")[0]["value"]["receipt"] == "a-1"
    chord([pay.s("a"), pay.s("b"), pay.s("a")])(collect.s())
    eventually(lambda: far_side.effects("collect"), 60)
    assert [v["receipt"] for v in far_side.effects("collect")[0]["values"]] == ["a-1", "b-1", "a-1"]
    assert (paid("a"), paid("b")) == (1, 1)


def test_the_same_key_with_other_arguments_goes_straight_to_the_inbox(running: Worker) -> None:
    """Also while the first is at it; no retry is spent on it."""
    first = pay.delay("a", until="go")
    eventually(lambda: paid("a") == 1)
    other = pay.delay("a", 99)
    row = letter(task_id=other.id)
    assert (row.reason, row.error_type, row.retries) == ("permanent_error", "IdempotencyConflict", 0)
    assert "'payment-a'" in row.error_message and "other arguments" in row.error_message
    far_side.record("go")
    value(first)
    late = pay.delay("a", 99)
    assert "completed" in letter(task_id=late.id).error_message
    assert paid("a") == 1


# --- failure frees -------------------------------------------------------------------


def test_retries_of_the_owner_are_not_eaten(running: Worker) -> None:
    assert value(pay.delay("a", fail=2)) == {"receipt": "a-3", "amount": 1}
    assert [effect["retries"] for effect in far_side.effects("pay-a")] == [0, 1, 2]
    fences = [effect["fence"] for effect in far_side.effects("pay-a")]
    assert fences == sorted(set(fences)), "each attempt has a higher fencing number"
    assert value(pay.delay("a", fail=2))["receipt"] == "a-3"


def test_a_redrive_of_the_owner_runs_and_keeps_the_calls_own_key(running: Worker) -> None:
    far_side.record("broken-x")
    sent = notify.apply_async(("x",), idempotency_key="welcome-x")
    row = letter(task_id=sent.id)
    assert len(far_side.effects("notify-x")) == 1
    far_side.clear()
    new = services.redrive(row.pk)
    eventually(lambda: TaskResult.objects.filter(task_id=new, status="SUCCESS").exists())
    assert value(notify.apply_async(("x",), idempotency_key="welcome-x")) == "told x 1"
    assert len(far_side.effects("notify-x")) == 1
    assert value(notify.delay("x")) == "told x 2", "without a key nothing is remembered"


def test_a_killed_owner_frees_its_key_at_once_where_its_worker_lives(running: Worker) -> None:
    """The lease lasts half a minute here; the parent process gives it back for the dead child."""
    dead = pay.delay("a", die=True)
    letter(task_id=dead.id, reason="worker_lost")
    assert pay.apply_async(("a",), {"die": True}).get(timeout=15)["receipt"] == "a-2"
    assert paid("a") == 2


# --- together with the task's own writes -------------------------------------------------


def test_a_transactional_effect_is_replayed(running: Worker) -> None:
    assert value(book.delay("o")) == value(book.delay("o")) == "booked o"
    assert ledger("o") == ["charge", "receipt"]
    record = IdempotencyRecord.objects.get()
    assert (record.task, record.key, record.value) == ("tests.support.charges.book", "o", '"booked o"')


def test_killed_between_its_writes_it_leaves_nothing_and_runs_again(running: Worker) -> None:
    sent = book.delay("o", die="between")
    row = letter(task_id=sent.id, reason="worker_lost")
    assert ledger("o") == []
    assert not IdempotencyRecord.objects.exists()
    services.redrive(row.pk)
    eventually(lambda: ledger("o") == ["charge", "receipt"])
    assert value(book.delay("o", die="between")) == "booked o"
    assert ledger("o") == ["charge", "receipt"]


def test_killed_between_its_commit_and_its_ack_it_is_not_run_again(running: Worker) -> None:
    sent = book.delay("o", die="after")
    row = letter(task_id=sent.id, reason="worker_lost")
    assert ledger("o") == ["charge", "receipt"]
    new = services.redrive(row.pk)
    eventually(lambda: TaskResult.objects.filter(task_id=new, status="SUCCESS", result='"booked o"').exists())
    assert ledger("o") == ["charge", "receipt"]
    assert len(far_side.effects("book-o")) == 1


def test_a_failure_undoes_the_writes_and_frees_the_key(running: Worker) -> None:
    row = letter(task_id=book.delay("o", die="fail").id)
    assert ledger("o") == []
    far_side.record("mended:o")
    services.redrive(row.pk)
    eventually(lambda: ledger("o") == ["charge", "receipt"])


# --- refused by delay() ------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, "", ["o"], {"id": 1}, True and ("x",)])
def test_what_cannot_be_a_key_is_refused_before_it_is_sent(broker: Broker, order: Any) -> None:
    with pytest.raises(InvalidOption, match=r"payment-\{order\}' got order="):
        pay.delay(order)
    assert not broker.client.llen("celery")


@pytest.mark.parametrize("key", [None, "", "  ", ["a"], 7, "x" * 256, "a\nb"])
def test_a_calls_own_key_that_cannot_work_is_refused(broker: Broker, key: Any) -> None:
    with pytest.raises(InvalidOption, match="idempotency key"):
        notify.apply_async(("x",), idempotency_key=key)
    assert not broker.client.llen("celery")
