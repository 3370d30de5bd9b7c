"""What the policies promise, on a broker that is not behind our transport: RabbitMQ's quorum queues.

There is no line in which a message could park, so it is deferred: published again, for later, without a retry.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from celery import chord

from orchestrator.celery import get_app
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from tests.integration.canvas.conftest import Stack, ran
from tests.integration.canvas.tasks import hold, note, total
from tests.support import calls, charges, far_side, limited, zoo
from tests.support.endings import raw
from tests.support.wait import eventually, stays
from tests.support.worker import Worker

WAIT = 60

pytestmark = pytest.mark.parametrize(
    "running", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True, scope="package"
)


def letter(task_id: str) -> DeadLetter:
    """Return the one open letter of a task, once it is there."""
    found = eventually(lambda: DeadLetter.objects.filter(task_id=task_id, state=State.OPEN).first(), message=task_id)
    assert found is not None
    return found


def deferred(stack: Stack, *ids: str) -> bool:
    """Whether the worker has put each of these back."""
    lines = [line for line in stack.worker.log.splitlines() if "deferred for" in line]
    return all(any(task_id in line for line in lines) for task_id in ids)


# --- limits ----------------------------------------------------------------------------------


def test_a_rate_is_never_exceeded_and_nothing_is_lost(stack: Stack, key: str) -> None:
    """Twenty a second; the rest is deferred without a retry, and no message waits in a line."""
    for number in range(50):
        limited.brisk.delay(f"{key}:{number:02}")
    eventually(lambda: sum(len(ran(f"{key}:{number:02}")) for number in range(50)) == 50, WAIT)
    times = sorted(ran(f"{key}:{number:02}")[0]["at"] for number in range(50))
    assert all(later - first > 0.95 for first, later in zip(times, times[20:], strict=False))
    assert not limited.parked()


def test_a_slot_is_held_by_one_and_others_take_no_worker(stack: Stack, key: str) -> None:
    names = [f"{key}:{number}" for number in range(6)]
    first, *others = names
    limited.alone.delay(first, until=f"{key}:go")
    eventually(lambda: ran(f"{first}:start"))
    ids = [limited.alone.delay(name, seconds=0.05).id for name in others]
    eventually(lambda: deferred(stack, *ids))
    # One of two processes is busy. What waits for the slot keeps nobody from the other.
    assert [note.delay(n, f"{key}:free").get(timeout=WAIT) for n in range(10)] == list(range(10))
    assert not any(ran(f"{name}:start") for name in others)
    far_side.record(f"{key}:go")
    eventually(
        lambda: all(ran(f"{name}:end") for name in names),
        WAIT,
        lambda: "\n".join(line for line in stack.worker.log.splitlines() if any(task_id in line for task_id in ids)),
    )
    spans = sorted((ran(f"{name}:start")[0]["at"], ran(f"{name}:end")[0]["at"]) for name in names)
    assert all(one[1] <= later[0] for one, later in pairwise(spans))
    assert [len(ran(f"{name}:start")) for name in names] == [1] * 6
    assert {ran(f"{name}:start")[0]["retries"] for name in names} == {0}


def test_a_message_that_is_put_off_again_and_again_comes_back_each_time(stack: Stack, key: str) -> None:
    """RabbitMQ drops, without a word, what it takes for a message that goes round in circles."""
    limited.patient.delay(key, [1, 2, 3, 6])
    eventually(lambda: len(ran(key)) == 5, WAIT, lambda: f"came {len(ran(key))} times\n{stack.worker.tail()}")


def test_a_slot_of_a_killed_process_is_free_at_once_and_its_message_in_the_inbox(stack: Stack, key: str) -> None:
    dead = limited.alone.delay(f"{key}:dead", die=True)
    row = letter(dead.id)
    assert row.reason == "worker_lost"
    limited.alone.delay(f"{key}:next")
    eventually(lambda: ran(f"{key}:next:end"), WAIT)
    services.redrive(row.pk)
    eventually(lambda: ran(f"{key}:dead:end"), WAIT)
    assert len(ran(f"{key}:dead:start")) == 2


def test_a_far_side_that_says_too_many_is_left_alone(stack: Stack, key: str) -> None:
    limited.told.delay(key, refuse=2, seconds=0.5)
    eventually(lambda: len(ran(key)) == 3, WAIT)
    assert [effect["retries"] for effect in ran(key)] == [0, 0, 0]
    assert all(later["at"] - one["at"] >= 0.49 for one, later in pairwise(ran(key)))


# --- idempotency and deduplication -------------------------------------------------------------


def test_a_second_run_waits_its_turn_and_gets_the_first_ones_result(stack: Stack, key: str) -> None:
    """Without a retry, without a worker, and with one charge."""
    first = charges.pay.delay(key, until=f"{key}:go")
    eventually(lambda: ran(f"pay-{key}"))
    others = [charges.pay.delay(key, until=f"{key}:go") for _ in range(3)]
    eventually(lambda: deferred(stack, *(one.id for one in others)))
    assert note.delay("free", f"{key}:free").get(timeout=WAIT) == "free"
    far_side.record(f"{key}:go")
    assert [one.get(timeout=WAIT) for one in (first, *others)] == [{"receipt": f"{key}-1", "amount": 1}] * 4
    assert [effect["retries"] for effect in ran(f"pay-{key}")] == [0]


def test_a_failure_frees_the_key_for_the_retry(stack: Stack, key: str) -> None:
    assert charges.pay.delay(key, fail=2).get(timeout=WAIT) == {"receipt": f"{key}-3", "amount": 1}
    assert [effect["retries"] for effect in ran(f"pay-{key}")] == [0, 1, 2]


def test_a_chord_goes_on_with_a_replayed_value(stack: Stack, key: str) -> None:
    assert charges.pay.delay(key).get(timeout=WAIT)
    sent = chord([charges.pay.s(key), charges.pay.s(f"{key}b")], zoo.collect.s(key=f"{key}:body")).delay()
    assert [one["receipt"] for one in sent.get(timeout=WAIT)] == [f"{key}-1", f"{key}b-1"]
    assert len(ran(f"pay-{key}")) == 1


def test_duplicates_are_one_message(stack: Stack, key: str) -> None:
    first = calls.finish.delay(key, "first", until=f"{key}:go")
    eventually(lambda: calls.values("finish", key) == ["first"])
    second = calls.finish.delay(key, "second")
    assert (second.id, second.duplicate_of) == (first.id, first.id)
    far_side.record(f"{key}:go")
    assert first.get(timeout=WAIT) == "first"
    # Over, so the next one is no duplicate; and a retry is not taken for one.
    third = eventually(lambda: (one := calls.finish.delay(key, "third", how="retry")).duplicate_of is None and one)
    assert third.get(timeout=WAIT) == "third"
    assert calls.values("finish", key) == ["first", "third", "third"]


def test_only_the_last_of_many_calls_runs_when_it_is_quiet(stack: Stack, key: str) -> None:
    for number in range(5):
        calls.debounce.delay(key, number)
    eventually(lambda: calls.values("debounce", key), WAIT)
    stays(lambda: calls.values("debounce", key) == [4], 1.0)


# --- the inbox -----------------------------------------------------------------------------


def test_a_failure_is_buried_whole_and_runs_again_when_it_is_redriven(stack: Stack, key: str) -> None:
    """In its chain: what follows it follows the redriven one."""
    sent = zoo.until_mended.apply_async((key, 7), link=zoo.follow.s(f"{key}:after"))
    row = letter(sent.id)
    assert (row.reason, row.task, row.retries) == ("failed", zoo.until_mended.name, 0)
    assert not ran(f"{key}:after")
    far_side.record(f"mended:{key}")
    new = services.redrive(row.pk)
    assert get_app().AsyncResult(new).get(timeout=WAIT) == 7
    eventually(lambda: [effect["value"] for effect in ran(f"{key}:after")] == [7])
    row.refresh_from_db()
    assert (row.state, row.redriven_as) == (State.REDRIVEN, new)


def test_a_delayed_message_can_be_redriven(stack: Stack, key: str) -> None:
    """It came by way of the exchanges that held it back; the redriven one comes at once."""
    sent = zoo.until_mended.apply_async((key, 8), countdown=1.2)
    row = letter(sent.id)
    far_side.record(f"mended:{key}")
    assert get_app().AsyncResult(services.redrive(row.pk)).get(timeout=WAIT) == 8


def test_a_redriven_member_completes_its_chord(stack: Stack, key: str) -> None:
    header = [note.s(1, key), zoo.until_mended.s(key, 2)]
    sent = chord(header, total.s(f"{key}:body")).delay()
    row = letter(sent.parent[1].id)
    far_side.record(f"mended:{key}")
    services.redrive(row.pk)
    eventually(lambda: [effect["value"] for effect in ran(f"{key}:body")] == [[1, 2]], WAIT)


@pytest.mark.parametrize("what", ["unknown task", "undecodable", "no message of a task", "bad body"])
def test_what_cannot_run_is_buried_with_its_bytes(stack: Stack, key: str, what: str) -> None:
    name = f"shop.tasks.{key}"
    body = {"undecodable": b'[[1, 2], {"x": ', "bad body": b"5", "no message of a task": b'{"hello": "world"}'}
    if what == "unknown task":
        sent = get_app().send_task(name, (1,), queue="celery").id
    else:
        headers: dict[str, Any] = {} if what == "no message of a task" else {"task": zoo.add.name, "retries": 0}
        sent = raw(body[what], **headers)
    row = letter(sent)
    assert (
        row.reason
        == {
            "unknown task": "unknown_task",
            "undecodable": "undecodable",
            "no message of a task": "invalid_message",
            "bad body": "invalid_message",
        }[what]
    )
    assert what == "unknown task" or row.message.body == body[what]
    assert note.delay("next", key).get(timeout=WAIT) == "next"


# --- workers that die --------------------------------------------------------------------------


def test_a_killed_worker_loses_nothing(stack: Stack, key: str, start: Callable[[Worker], Worker]) -> None:
    """What it held goes back to the queue; what is delayed or deferred was never with it."""
    queue = f"apart-{key}"
    first = start(stack.another(queues=[queue], concurrency=1))
    busy = hold.apply_async((key,), queue=queue)
    eventually(lambda: ran(key))
    waiting = [note.apply_async((number, f"{key}:waiting"), queue=queue) for number in range(5)]
    later = note.apply_async(("later", f"{key}:later"), queue=queue, countdown=1.2)
    first.kill_group()
    first.wait()
    start(stack.another(queues=[queue], concurrency=1))
    far_side.record(f"{key}:go")
    assert busy.get(timeout=WAIT) == key
    assert [one.get(timeout=WAIT) for one in waiting] == list(range(5))
    assert later.get(timeout=WAIT) == "later"
    assert len(ran(key)) == 2
    assert len(ran(f"{key}:waiting")) == 5
    assert len(ran(f"{key}:later")) == 1
