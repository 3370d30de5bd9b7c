"""The public test kit does what its page says, and notices what it is there to notice."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

import pytest
from django.db import transaction
from kombu.exceptions import EncodeError

from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.testing import advance, assert_published, own_stores, perform, published
from orchestrator.testing.plugin import assert_idempotent, orchestrator_server, orchestrator_stores
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.calls import debounce, finish, latest, throttle
from tests.support.charges import book, careless, ledger, notify, pay
from tests.support.circuits import reach
from tests.support.zoo import add, end, flaky

__all__ = ["assert_idempotent", "orchestrator_server", "orchestrator_stores"]


@pytest.fixture(autouse=True)
def _far_side() -> None:
    far_side.clear()


# --- published ------------------------------------------------------------------------


def test_publications_are_recorded_and_not_sent(broker: Broker) -> None:
    with published() as sent:
        result = add.delay(1, 2)
        get_app().send_task("tests.support.zoo.add", kwargs={"x": Decimal("1.5")}, queue="other")
    assert [str(one) for one in sent] == [
        "tests.support.zoo.add args=[1, 2] kwargs={}",
        "tests.support.zoo.add args=[] kwargs={'x': Decimal('1.5')}",
    ]
    assert sent[0].task_id == result.id
    assert sent[1].options["queue"] == "other"
    assert not broker.client.keys("*")
    assert assert_published(add, [1, 2]) == [sent[0]]
    assert_published("tests.support.zoo.add", times=2)
    assert_published(end, times=0)
    with pytest.raises(AssertionError, match=r"add args=\[3, 4\] was to be published at least once.*\n.*\[1, 2\]"):
        assert_published(add, [3, 4])


@pytest.mark.django_db
def test_what_waits_for_the_commit_is_recorded_in_a_test_that_never_commits() -> None:
    with published() as sent, transaction.atomic():
        add.delay_on_commit(1, 2)
        assert not sent
    assert_published(add, [1, 2], {}, times=1)


@pytest.mark.django_db(transaction=True)
def test_what_a_rollback_took_back_is_not_recorded() -> None:
    with published(), pytest.raises(ZeroDivisionError), transaction.atomic():
        add.delay_on_commit(1, 2)
        raise ZeroDivisionError
    assert_published(add, times=0)


def test_what_could_not_be_sent_is_refused_as_usual(broker: Broker) -> None:
    with published() as sent:
        with pytest.raises(EncodeError):
            add.delay(object(), 1)
        with pytest.raises(InvalidOption):
            pay.delay(None)
    assert not sent
    # Afterwards things are sent again.
    add.apply_async((1, 2), queue="later")
    assert broker.client.llen("later") == 1


# --- perform ----------------------------------------------------------------------------


def test_an_attempt_tells_how_it_ended(orchestrator_stores: str) -> None:
    assert (perform(add, 1, 2).verdict, perform(add, 1, 2).value) == (Verdict.SUCCEEDED, 3)
    failed = perform(end, "fail")
    assert (failed.verdict, failed.reason, failed.error_type) == (Verdict.FAILED, Reason.FAILED, "LookupError")
    assert "no such order" in failed.traceback
    assert perform(end, "permanent").reason is Reason.PERMANENT_ERROR
    assert perform(end, "ignore").verdict is Verdict.SKIPPED


def test_retries_are_recorded_and_can_be_performed(orchestrator_stores: str) -> None:
    with published() as sent:
        assert perform(flaky, "a").verdict is Verdict.RETRIED
        assert sent[0].options["retries"] == 1
        assert perform(sent[0]).verdict is Verdict.RETRIED
        last = perform(sent[1])
    assert (last.verdict, last.reason) == (Verdict.FAILED, Reason.RETRIES_EXHAUSTED)
    assert [effect["retries"] for effect in far_side.effects("a")] == [0, 1, 2]


def test_policies_are_the_real_ones_and_the_clock_can_be_set(orchestrator_stores: str) -> None:
    first = perform(pay, "a")
    again = perform(pay, "a")
    assert (first.verdict, again.verdict) == (Verdict.SUCCEEDED, Verdict.REPLAYED)
    assert again.value == first.value
    assert perform(pay, "a", 2).error_type == "IdempotencyConflict"
    with published() as sent:
        notify.apply_async(("x",), idempotency_key="k")
    assert [perform(sent[0]).verdict, perform(sent[0]).verdict] == [Verdict.SUCCEEDED, Verdict.REPLAYED]


def test_duplicates_are_not_published_and_every_end_gives_the_lock_back(orchestrator_stores: str) -> None:
    with published() as sent:
        first, again = finish.delay("a", 1, how="fail"), finish.delay("a", 2)
        assert again.duplicate_of == first.id
        assert_published(finish, times=1)
        assert perform(sent[0]).verdict is Verdict.RETRIED
        assert finish.delay("a", 3).duplicate_of == first.id, "its retry belongs to it"
        assert perform(sent[1]).verdict is Verdict.FAILED
        assert finish.delay("a", 4).duplicate_of is None
        assert perform(sent[2]).value == 4
        assert finish.delay("a", 5).duplicate_of is None


@pytest.mark.django_db
def test_duplicates_in_a_transaction_that_never_commits(orchestrator_stores: str) -> None:
    """As in most tests: the outbox's part is played until the end of the block."""
    with published() as sent:
        first, again = finish.delay("a", 1), finish.delay("a", 2)
        assert again.duplicate_of == first.id
        for number in range(3):
            latest.delay("b", number)
        assert not sent
    assert [str(one) for one in sent] == [
        "tests.support.calls.finish args=['a', 1] kwargs={}",
        "tests.support.calls.latest args=['b', 0] kwargs={}",
    ]
    assert [perform(one).value for one in sent] == [1, 2]
    with published():
        assert finish.delay("a", 3).duplicate_of is None


@pytest.mark.django_db(transaction=True)
def test_what_waits_for_a_pause_is_due_when_the_clock_says_so(orchestrator_stores: str) -> None:
    with published() as sent:
        debounce.delay("a", 1)
        debounce.delay("a", 2)
        assert sent[0].options["countdown"] == pytest.approx(1.5)
        assert perform(sent[0]).verdict is Verdict.DEFERRED
        advance(2)
        assert perform(sent[0]).value == 2
        assert throttle.delay("a", 1).duplicate_of is None
        assert perform(sent[-1]).value == 1
        throttle.delay("a", 2)
        assert perform(sent[-1]).verdict is Verdict.DEFERRED
        advance(2)
        assert perform(sent[-1]).value == 2


@pytest.mark.django_db(transaction=True)
def test_a_breaker_cools_down_when_the_clock_says_so(orchestrator_stores: str) -> None:
    with published():
        assert [perform(reach, "a").verdict for _ in range(4)] == [Verdict.RETRIED] * 3 + [Verdict.DEFERRED]
        far_side.record("up")
        assert perform(reach, "a").verdict is Verdict.DEFERRED
        advance(1.1)
        assert perform(reach, "a").verdict is Verdict.SUCCEEDED
        assert perform(reach, "a").verdict is Verdict.SUCCEEDED


@pytest.mark.django_db(transaction=True)
def test_failures_leave_a_breakers_window_when_the_clock_says_so(orchestrator_stores: str) -> None:
    with published():
        for _ in range(3):
            assert perform(reach, "a").verdict is Verdict.RETRIED
            assert perform(reach, "a").verdict is Verdict.RETRIED
            advance(61)


@pytest.mark.django_db
def test_records_grow_old_at_once(orchestrator_stores: str) -> None:
    assert perform(careless, "a").verdict is Verdict.SUCCEEDED
    assert perform(book, "a").verdict is Verdict.SUCCEEDED
    advance(3599)
    assert perform(careless, "a").verdict is perform(book, "a").verdict is Verdict.REPLAYED
    advance(2)
    assert perform(careless, "a").verdict is Verdict.SUCCEEDED
    advance(24 * 3600)
    assert perform(book, "a").verdict is Verdict.SUCCEEDED


def test_stores_of_ones_own_are_thrown_away() -> None:
    with own_stores() as url:
        assert perform(pay, "a").verdict is Verdict.SUCCEEDED
        assert perform(pay, "a").verdict is Verdict.REPLAYED
    with own_stores() as another:
        assert perform(pay, "a").verdict is Verdict.SUCCEEDED
    assert url != another


# --- assert_idempotent --------------------------------------------------------------------


@pytest.mark.database
def test_a_transactional_task_changes_the_database_once_wherever_it_dies(assert_idempotent: Callable[..., int]) -> None:
    """SIGKILL before and after each write and commit, and before the ack: on SQLite and on PostgreSQL."""
    AuditEntry.objects.create(actor="someone", action="before", target="order-1")
    deaths = assert_idempotent(book, "order-1")
    # Record, two writes, record again, commit: before and after each; then the end.
    assert deaths == 11
    assert ledger("order-1") == ["before"], "the rows are put back"


@pytest.mark.database
def test_a_task_that_is_not_sure_is_found_out(assert_idempotent: Callable[..., int]) -> None:
    """It survives being run twice, and not a death between its writes."""
    with pytest.raises(AssertionError) as found:
        assert_idempotent(careless, "order-1")
    text = str(found.value)
    # Which moment is the first to find a commit after a statement depends on the database.
    assert re.match(r"It was killed (after|before) INSERT INTO orchestrator_audit_auditentry and run again", text)
    assert "orchestrator_audit.AuditEntry has besides" in text
    assert not AuditEntry.objects.exists()


@pytest.mark.database
def test_a_task_without_a_key_is_found_out_by_running_it_twice(assert_idempotent: Callable[..., int]) -> None:
    def write(order: str) -> None:
        AuditEntry.objects.create(actor="x", action="charge", target=order)

    naive = get_app().task(name="tests.naive")(write)
    with pytest.raises(AssertionError, match="It was run twice; that is not the same as one run"):
        assert_idempotent(naive, "order-1")


def test_a_failing_task_is_told(assert_idempotent: Callable[..., int]) -> None:
    with pytest.raises(AssertionError, match=r"It was run once, and ended as failed. LookupError: no such order"):
        assert_idempotent(end, "fail")


@pytest.mark.django_db
def test_a_test_in_a_transaction_is_refused(orchestrator_stores: str) -> None:
    from orchestrator.testing import check_idempotent

    with pytest.raises(AssertionError, match="use the fixture transactional_db"):
        check_idempotent(book, "order-1")
