"""Calling off what waits, what is delayed, what runs, and parts of a canvas."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import chain, chord, group, states
from celery.exceptions import ChordError, TaskRevokedError

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, hold, note, stamped, total
from tests.support import far_side
from tests.support.wait import eventually, stays

WAIT = 30


@contextmanager
def all_busy(key: str) -> Iterator[None]:
    """Keep both processes busy, so that what is published waits."""
    busy = [hold.delay(f"{key}:{number}") for number in range(2)]
    eventually(lambda: all(ran(f"{key}:{number}") for number in range(2)))
    try:
        yield
    finally:
        for number in range(2):
            far_side.record(f"{key}:{number}:go")
        for one in busy:
            one.get(timeout=WAIT)


def revoke(stack: Stack, *ids: str, **options: object) -> None:
    """Call off tasks and hear that the worker knows it."""
    assert get_app().control.revoke(list(ids), reply=True, timeout=10, limit=1, **options)


def test_what_waits_does_not_begin(stack: Stack, key: str) -> None:
    with all_busy(key):
        gone, kept = note.apply_async(("gone", key), link=note.s(f"{key}:never")), note.delay("kept", key)
        revoke(stack, gone.id)
        stays(lambda: not ran(key), 0.2)
    assert kept.get(timeout=WAIT) == "kept"
    with pytest.raises(TaskRevokedError):
        gone.get(timeout=WAIT)
    assert gone.state == states.REVOKED
    stays(lambda: values(key) == ["kept"] and not ran(f"{key}:never"), 0.3)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_what_runs_is_ended(stack: Stack, key: str, signal: str) -> None:
    """And only that; the process is replaced, and nothing runs again."""
    gone, neighbour = hold.apply_async((key,), link=note.s(f"{key}:never")), hold.delay(f"{key}:b")
    eventually(lambda: ran(key) and ran(f"{key}:b"))
    revoke(stack, gone.id, terminate=True, signal=signal)
    with pytest.raises(TaskRevokedError):
        gone.get(timeout=WAIT)
    assert note.delay("next", f"{key}:next").get(timeout=WAIT) == "next"
    far_side.record(f"{key}:b:go")
    assert neighbour.get(timeout=WAIT) == f"{key}:b"
    far_side.record(f"{key}:go")
    stays(lambda: len(ran(key)) == 1 and not ran(f"{key}:never"), 0.5)


def test_what_is_delayed_does_not_begin(stack: Stack, key: str) -> None:
    gone, kept = note.apply_async(("gone", key), countdown=1.3), note.apply_async(("kept", key), countdown=1.3)
    revoke(stack, gone.id)
    assert kept.get(timeout=WAIT) == "kept"
    eventually(lambda: gone.state == states.REVOKED)
    assert values(key) == ["kept"]


def test_a_group_is_called_off_by_its_result(stack: Stack, key: str) -> None:
    with all_busy(key):
        gone = group(note.s(number, key) for number in range(3)).delay()
        gone.revoke()
        # Answered after it: the worker has heard of it.
        revoke(stack, "something else")
    eventually(lambda: {member.state for member in gone} == {states.REVOKED})
    assert not ran(key)


def test_a_chain_stops_where_it_is_called_off(stack: Stack, key: str) -> None:
    with all_busy(key):
        sent = chain(note.s("first", key), note.s(key)).delay()
        revoke(stack, sent.parent.id)
    with pytest.raises(TaskRevokedError):
        sent.parent.get(timeout=WAIT)
    stays(lambda: not ran(key) and sent.state == states.PENDING, 0.3)


def test_a_chord_ends_without_a_member_that_is_called_off(stack: Stack, key: str) -> None:
    with all_busy(key):
        sent = chord([add.s(1, 1, key=key), add.s(2, 2, key=key)], total.s(f"{key}:never")).delay()
        revoke(stack, sent.parent[0].id)
    with pytest.raises(ChordError):
        get_app().AsyncResult(sent.id).get(timeout=WAIT)
    assert values(key) == [4]
    assert not ran(f"{key}:never")


def test_what_runs_is_ended_by_its_stamps(stack: Stack, key: str) -> None:
    """And its neighbour, with another stamp, is not."""
    made = []
    for customer in ("acme", "other"):
        one = hold.s(f"{key}:{customer}")
        one.stamp(customer=customer + key)
        made.append(one.delay())
    gone, kept = made
    eventually(lambda: ran(f"{key}:acme") and ran(f"{key}:other"))
    assert get_app().control.revoke_by_stamped_headers(
        {"customer": ["acme" + key]}, terminate=True, signal="SIGKILL", reply=True, timeout=10, limit=1
    )
    with pytest.raises(TaskRevokedError):
        gone.get(timeout=WAIT)
    far_side.record(f"{key}:other:go")
    assert kept.get(timeout=WAIT)


def test_tasks_are_called_off_by_their_stamps(stack: Stack, key: str) -> None:
    with all_busy(key):
        made = []
        for customer in ("acme", "other"):
            one = stamped.s(customer, f"{key}:{customer}")
            one.stamp(customer=customer + key)
            made.append(one.delay())
        assert get_app().control.revoke_by_stamped_headers(
            {"customer": ["acme" + key]}, reply=True, timeout=10, limit=1
        )
    gone, kept = made
    assert kept.get(timeout=WAIT) == "other"
    eventually(lambda: gone.state == states.REVOKED)
    assert not ran(f"{key}:acme")
