"""Calls that mean the same run are one message, by the law of each mode. Real workers, real deaths."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain, chord, group
from django.db import transaction
from django_celery_results.models import TaskResult
from kombu.exceptions import EncodeError

from orchestrator import Deduplicate, errors
from orchestrator.celery import get_app
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.monitoring import delayed
from tests.support import calls, environment, far_side
from tests.support.calls import debounce, finish, latest, start, throttle, values, window
from tests.support.outbox import waiting
from tests.support.wait import eventually, stays
from tests.support.worker import Relay, Worker
from tests.support.zoo import add, anything, collect

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def processes(shared: Any) -> Iterator[tuple[Worker, Relay]]:
    """One worker and one relay for most tests here: starting them is the slow part."""
    with shared(Worker(pool="swarm", concurrency=2, env=calls.ENV), Relay()) as processes:
        yield processes


@pytest.fixture
def running(processes: tuple[Worker, Relay], transactional_db: None) -> Worker:
    """Running processes, an empty database, nothing on the far side, no locks."""
    far_side.clear()
    client = environment.world().broker.client
    for key in client.keys("orchestrator:*dedup*"):
        client.delete(key)
    return processes[0]


def locks() -> list[str]:
    """Return the names of all locks that are held."""
    found = environment.world().broker.client.keys("orchestrator:lease:dedup*")
    return [key.decode() for key in found]


def letter(**filters: Any) -> DeadLetter:
    """Return the one open letter, once it is there."""
    return eventually(lambda: DeadLetter.objects.filter(state=State.OPEN, **filters).first(), message=f"{filters}")


def value(sent: Any) -> Any:
    return sent.get(timeout=60)


# --- the modes ------------------------------------------------------------------------


def test_whoever_has_the_result_can_call_again(running: Worker) -> None:
    """A lock may be given back together with others, but not after its run's result is there."""
    for number in range(15):
        sent = finish.delay("again", number)
        assert sent.duplicate_of is None, number
        assert value(sent) == number


def test_until_started_one_message_waits(running: Worker) -> None:
    """The caller of a duplicate is told; once the first has started, the next is no duplicate."""
    first = start.apply_async(("a", 1), countdown=1.5)
    again = [start.delay("a", 2), start.apply_async(("a", 3)), get_app().send_task(start.name, ("a", 4))]
    assert first.duplicate_of is None
    assert [(sent.id, sent.duplicate_of) for sent in again] == [(first.id, first.id)] * 3
    assert start.delay("b", 1).duplicate_of is None, "another key"
    assert value(first) == value(again[0]) == 1
    assert not locks()
    running_one = start.delay("a", 5, until="go")
    eventually(lambda: 5 in values("start", "a"))
    assert start.delay("a", 6).duplicate_of is None
    far_side.record("go")
    assert value(running_one) == 5
    eventually(lambda: values("start", "a") == [1, 5, 6])


def test_until_finished_one_run_is_under_way(running: Worker) -> None:
    """A run that works is not over, and its retry is no duplicate of it; its success is its end."""
    first = finish.delay("a", 1, until="go")
    eventually(lambda: values("finish", "a"))
    assert finish.delay("a", 2).duplicate_of == first.id
    far_side.record("go")
    assert value(first) == 1
    eventually(lambda: not locks())
    retried = finish.delay("a", 3, how="retry", until="again")
    eventually(lambda: values("finish", "a") == [1, 3])
    assert finish.delay("a", 4).duplicate_of == retried.id
    far_side.record("again")
    assert value(retried) == 3
    assert values("finish", "a") == [1, 3, 3], "the retry itself was not eaten"
    eventually(lambda: not locks())


def test_window_drops_whatever_became_of_the_first(running: Worker) -> None:
    first = window.delay("a", 1, how="fail")
    eventually(lambda: values("window", "a") == [1])
    assert window.delay("a", 2).duplicate_of == first.id
    assert letter(task_id=first.id)
    eventually(lambda: not locks())
    assert value(window.delay("a", 3)) == 3
    assert values("window", "a") == [1, 3]


def test_debounce_runs_once_with_the_last_arguments_when_it_is_quiet(running: Worker) -> None:
    """It does not run while calls keep coming; all callers get the one run's result."""
    first = debounce.delay("a", 0)
    sent = []
    for number in range(1, 5):
        stays(lambda: not values("debounce", "a"), 0.6, "runs while it is called")
        sent.append(debounce.delay("a", number))
    assert {one.duplicate_of for one in sent} == {first.id}
    assert value(first) == value(sent[-1]) == 4
    assert values("debounce", "a") == [4]
    row = TaskResult.objects.filter(task_id=first.id, status="SUCCESS")
    eventually(row.exists)
    assert "4" in row.get().task_args, "its results show the arguments that it ran with"
    assert not locks()


def test_throttle_starts_apart_and_never_loses_the_last_call(running: Worker) -> None:
    assert value(throttle.delay("a", 1)) == 1
    second = throttle.delay("a", 2)
    assert second.duplicate_of is None
    assert throttle.delay("a", 3).duplicate_of == second.id
    assert value(second) == 3
    assert values("throttle", "a") == [1, 3]
    starts = [effect["at"] for effect in far_side.effects("throttle-a")]
    assert starts[1] - starts[0] >= 1.4


def test_latest_runs_the_newest_after_the_one_that_runs(running: Worker) -> None:
    """At most one runs and one waits, and the last call takes effect."""
    first = latest.delay("a", 1, until="go")
    eventually(lambda: values("latest", "a"))
    waiting = latest.delay("a", 2)
    assert waiting.duplicate_of is None
    assert [latest.delay("a", n).duplicate_of for n in (3, 4)] == [waiting.id] * 2
    stays(lambda: values("latest", "a") == [1], 1.0)
    far_side.record("go")
    assert (value(first), value(waiting)) == (1, 4)
    assert values("latest", "a") == [1, 4]
    eventually(lambda: not locks())


def test_newer_arguments_live_on_in_retries_and_in_the_inbox(running: Worker) -> None:
    """What a run took over is what its retries, its letter and its redrive have."""
    first = latest.delay("a", 1, until="go")
    eventually(lambda: values("latest", "a"))
    waiting = latest.delay("a", 2)
    latest.delay("a", 3, how="fail")
    far_side.record("go")
    row = letter(task_id=waiting.id)
    assert values("latest", "a") == [1, 3, 3]
    assert "3" in row.args_repr
    assert not locks()
    again = letter(task_id=services.redrive(row.pk))
    assert values("latest", "a") == [1, 3, 3, 3, 3]
    assert "3" in again.args_repr
    assert value(first) == 1


def test_without_a_key_equal_calls_are_the_same(running: Worker) -> None:
    rule = Deduplicate("until_started")
    first = add.apply_async((1, 2), countdown=2, deduplication=rule)
    assert add.apply_async((), {"x": 1, "y": 2}, deduplication=rule).duplicate_of == first.id
    assert add.apply_async((1, 3), deduplication=rule).duplicate_of is None
    assert add.delay(1, 2).duplicate_of is None, "nothing was asked for"
    assert start.apply_async(("z",), deduplication=False).duplicate_of is None
    by_name = [get_app().send_task("elsewhere.unknown", kwargs={"n": 1}, queue="nobody", deduplication=rule)]
    by_name.append(get_app().send_task("elsewhere.unknown", kwargs={"n": 1}, queue="nobody", deduplication=rule))
    assert by_name[1].duplicate_of == by_name[0].id


# --- what is never a duplicate ----------------------------------------------------------


def test_canvas_is_never_eaten(running: Worker) -> None:
    """Members of groups and chords, heads of chains, calls with callbacks, and callbacks."""
    held = finish.delay("a", 0, until="go")
    eventually(lambda: values("finish", "a"))
    chord([finish.si("a", 1), finish.si("a", 2)])(collect.s())
    eventually(lambda: far_side.effects("collect"))
    assert sorted(far_side.effects("collect")[0]["values"]) == [1, 2]
    group([finish.si("a", 3), finish.si("a", 4)]).delay()
    chain(finish.si("a", 5), finish.si("a", 6)).delay()
    finish.apply_async(("a", 7), link=finish.si("a", 8))
    eventually(lambda: sorted(values("finish", "a")) == list(range(9)), message=lambda: str(values("finish", "a")))
    far_side.record("go")
    value(held)


def test_a_redrive_is_never_eaten(running: Worker) -> None:
    row = letter(task_id=finish.delay("a", 1, how="fail").id)
    assert not locks()
    held = finish.delay("a", 2, until="go")
    eventually(lambda: 2 in values("finish", "a"))
    # It fails again, twice.
    letter(task_id=services.redrive(row.pk))
    assert values("finish", "a").count(1) == 4
    far_side.record("go")
    value(held)


# --- every end gives the lock back -------------------------------------------------------


def test_every_end_gives_the_lock_back(running: Worker) -> None:
    """Final failure, death, revocation, expiry, an unknown task."""
    dead = finish.delay("dead", how="die")
    letter(task_id=dead.id, reason="worker_lost")
    assert not locks()
    far = finish.apply_async(("revoked",), countdown=1.5)
    get_app().control.revoke(far.id)
    gone = finish.apply_async(("expired",), countdown=1.5, expires=0.2)
    assert finish.delay("revoked").duplicate_of == far.id
    assert finish.delay("expired").duplicate_of == gone.id
    off = finish.apply_async(("called off",), countdown=60, outbox=False)
    assert delayed.cancel(off.id) == 1
    assert finish.apply_async(("called off",), countdown=60).duplicate_of is None
    assert delayed.cancel(off.id) == 0
    (left,) = [name.task_id for name in delayed.listed() if name.task == finish.name and name.due > time.time() + 30]
    assert delayed.cancel(left) == 1
    rule = Deduplicate("until_finished")
    unknown = get_app().send_task("no.such.task", deduplication=rule)
    letter(task_id=unknown.id)
    eventually(lambda: not locks(), message=lambda: str(locks()))
    assert not values("finish", "revoked") and not values("finish", "expired")


def test_a_call_that_was_not_sent_holds_nobody_up(running: Worker) -> None:
    with pytest.raises(EncodeError):
        start.delay("a", object())
    assert not locks()
    assert value(start.delay("a", 1)) == 1


# --- in a transaction ---------------------------------------------------------------------


def test_a_rollback_leaves_no_lock_and_no_id_behind(running: Worker) -> None:
    class Changed(Exception):
        pass

    with pytest.raises(Changed), transaction.atomic():
        first = finish.delay("a", 1)
        assert finish.delay("a", 2).duplicate_of == first.id
        assert not locks(), "the lock is taken when it is sent"
        raise Changed
    assert not locks()
    assert not waiting().exists()
    with transaction.atomic():
        first = finish.delay("a", 3)
        again = [finish.delay("a", 4), finish.delay_on_commit("a", 5)]
    assert first.duplicate_of is None
    assert [(sent.id, sent.duplicate_of) for sent in again] == [(first.id, first.id)] * 2
    assert value(first) == 3
    assert values("finish", "a") == [3]
    eventually(lambda: not locks())


def test_a_transaction_meets_the_lock_of_one_that_is_under_way(running: Worker) -> None:
    first = finish.delay("a", 1, until="go")
    eventually(lambda: values("finish", "a"))
    with transaction.atomic():
        assert finish.delay("a", 2).duplicate_of == first.id
    far_side.record("go")
    value(first)
    assert values("finish", "a") == [1]


def test_what_became_a_duplicate_before_its_commit_is_dropped_when_it_is_sent(running: Worker) -> None:
    """Two callers, one in a transaction: the lock decides, not the row."""
    with transaction.atomic():
        finish.delay("a", 1)
        other = finish.apply_async(("a", 2), countdown=0.5, outbox=False)
        assert other.duplicate_of is None
    assert not waiting().exists()
    assert value(other) == 2
    assert values("finish", "a") == [2]


def test_newest_arguments_of_a_transaction_win_when_it_commits(running: Worker) -> None:
    with transaction.atomic():
        for number in range(3):
            debounce.delay("a", number)
    eventually(lambda: values("debounce", "a") == [2])
    stays(lambda: values("debounce", "a") == [2], 0.5)
    first = debounce.delay("a", 3)
    with pytest.raises(KeyError), transaction.atomic():
        assert debounce.delay("a", 4).duplicate_of == first.id
        raise KeyError
    assert value(first) == 3


# --- what cannot work -----------------------------------------------------------------------


def test_what_cannot_be_a_key_is_refused_before_it_is_sent(running: Worker) -> None:
    with pytest.raises(errors.InvalidOption, match=r"deduplication key '\{key\}' got key=None"):
        start.delay(None)
    with pytest.raises(errors.InvalidOption, match="give a Deduplicate"):
        anything.apply_async((), deduplication="until_started")
    assert not locks()
