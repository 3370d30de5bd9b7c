"""``Task.replace`` alone, in a chain, a group and a chord: whoever waits gets the successor's value."""

from __future__ import annotations

import pytest
from celery import chain, chord, group, states
from celery.exceptions import ChordError

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, become, note, told_id, total
from tests.support.wait import eventually

WAIT = 30
#: What a task becomes, the value of it for 1, and how many bodies that takes.
FORMS = [("task", 2, 1), ("again", 2, 1), ("chain", 3, 2), ("chord", 6, 3)]


@pytest.mark.parametrize(("what", "value", "bodies"), FORMS)
def test_alone(stack: Stack, key: str, what: str, value: int, bodies: int) -> None:
    sent = become.delay(1, key, what)
    assert sent.get(timeout=WAIT) == value
    assert len(ran(f"{key}:new")) == bodies
    assert get_app().AsyncResult(sent.id).state == states.SUCCESS


@pytest.mark.parametrize(("what", "value", "bodies"), FORMS)
def test_in_a_chain(stack: Stack, key: str, what: str, value: int, bodies: int) -> None:
    sent = chain(add.s(0, 1, key=f"{key}:first"), become.s(key, what), add.s(100, key=f"{key}:last")).delay()
    assert sent.get(timeout=WAIT) == 100 + value
    assert (values(f"{key}:first"), values(f"{key}:last")) == ([1], [100 + value])
    assert len(ran(f"{key}:new")) == bodies


@pytest.mark.parametrize(("what", "value", "bodies"), FORMS)
def test_in_a_chord(stack: Stack, key: str, what: str, value: int, bodies: int) -> None:
    header = [add.s(5, 5, key=key), become.s(1, key, what), become.s(1, key, what)]
    assert chord(header, total.s(f"{key}:body")).delay().get(timeout=WAIT) == 10 + 2 * value
    assert values(f"{key}:body") == [[10, value, value]]
    assert len(ran(f"{key}:new")) == 2 * bodies


def test_in_a_group(stack: Stack, key: str) -> None:
    sent = group(become.s(1, key, what) for what, _, _ in FORMS).delay()
    assert sent.get(timeout=WAIT) == [value for _, value, _ in FORMS]


def test_by_a_group_in_a_chain(stack: Stack, key: str) -> None:
    """What follows waits for all of it, as for a chord."""
    sent = chain(become.s(1, key, "group"), total.s(f"{key}:body")).delay()
    assert sent.get(timeout=WAIT) == 6
    assert values(f"{key}:body") == [[1, 2, 3]]


def test_as_the_body_of_a_chord(stack: Stack, key: str) -> None:
    header = [add.s(1, 1, key=key), add.s(2, 2, key=key)]
    assert chord(header, chain(total.s(f"{key}:body"), become.s(key, "task"))).delay().get(timeout=WAIT) == 7


def test_callbacks_and_errbacks_move_to_the_successor(stack: Stack, key: str) -> None:
    become.apply_async((1, key, "task"), link=note.s(f"{key}:link"), link_error=told_id.s(key=f"{key}:error"))
    eventually(lambda: values(f"{key}:link") == [2])
    sent = become.apply_async((1, key, "fail"), link=note.s(f"{key}:link"), link_error=told_id.s(key=f"{key}:error"))
    eventually(lambda: values(f"{key}:error") == [sent.id])
    assert len(ran(f"{key}:link")) == 1


def test_a_successor_that_fails_fails_the_chord(stack: Stack, key: str) -> None:
    sent = chord([add.s(1, 1, key=key), become.s(1, key, "fail")], total.s(f"{key}:never")).delay()
    with pytest.raises(ChordError):
        get_app().AsyncResult(sent.id).get(timeout=WAIT)
    assert not ran(f"{key}:never")
