"""Countdown, ETA, expiry and order: nothing before its time, nothing after it, everything once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from celery import chain, chord, states
from celery.exceptions import TaskRevokedError

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, hold, note, total
from tests.support import far_side
from tests.support.wait import eventually, stays

WAIT = 30


@pytest.mark.parametrize("seconds", [0.2, 1.0, 1.7, 2.5])
@pytest.mark.parametrize("how", ["countdown", "eta"])
def test_a_delayed_task_starts_in_time_and_once(stack: Stack, key: str, how: str, seconds: float) -> None:
    begun = time.time()
    when = {"countdown": seconds} if how == "countdown" else {"eta": datetime.now(UTC) + timedelta(seconds=seconds)}
    sent = note.apply_async(("x", key), **when)
    assert sent.get(timeout=WAIT) == "x"
    (effect,) = ran(key)
    assert effect["at"] - begun >= seconds * 0.99


def test_delayed_tasks_start_in_the_order_of_their_times(stack: Stack, key: str) -> None:
    """Not in that of their publication; and what is not delayed passes them all."""
    for seconds in (2.4, 1.2, 0.3):
        note.apply_async((seconds, key), countdown=seconds)
    note.delay(0, key)
    eventually(lambda: len(ran(key)) == 4)
    assert values(key) == [0, 0.3, 1.2, 2.4]


def test_delayed_tasks_hold_nobody_up(stack: Stack, key: str) -> None:
    """More of them than the worker could hold."""
    far = [note.apply_async(("far", key), countdown=3600) for _ in range(20)]
    assert [note.delay(number, f"{key}:now").get(timeout=WAIT) for number in range(3)] == [0, 1, 2]
    get_app().control.revoke([one.id for one in far])
    assert not ran(key)


def test_delays_within_a_canvas(stack: Stack, key: str) -> None:
    begun = time.time()
    header = [add.si(1, 1, key=key).set(countdown=1.1), add.si(2, 2, key=key)]
    made = chain(add.s(0, 1, key=f"{key}:first").set(countdown=0.3), chord(header, total.s(f"{key}:body")))
    assert chain(made, add.s(1, key=f"{key}:last").set(countdown=1.1)).delay().get(timeout=WAIT) == 7
    first, body, last = (ran(f"{key}:{name}")[0]["at"] - begun for name in ("first", "body", "last"))
    assert (first >= 0.29, body >= 1.3, last >= 2.4) == (True, True, True)


@pytest.mark.parametrize("how", ["seconds", "datetime", "delayed beyond it"])
def test_what_has_expired_does_not_run(stack: Stack, key: str, how: str) -> None:
    options = {
        "seconds": {"expires": -1},
        "datetime": {"expires": datetime.now(UTC) - timedelta(seconds=1)},
        "delayed beyond it": {"expires": 0.5, "countdown": 1.2},
    }[how]
    sent = note.apply_async(("x", key), link=note.s(f"{key}:never"), **options)
    with pytest.raises(TaskRevokedError, match="expired"):
        sent.get(timeout=WAIT)
    assert sent.state == states.REVOKED
    assert not ran(key)
    stays(lambda: not ran(f"{key}:never"), 0.3)


def test_what_expires_while_it_waits_does_not_run(stack: Stack, key: str) -> None:
    """Every process is busy until it is too late."""
    busy = [hold.delay(f"{key}:{number}") for number in range(2)]
    eventually(lambda: all(ran(f"{key}:{number}") for number in range(2)))
    late, good = note.apply_async(("late", key), expires=0.5), note.apply_async(("good", key), expires=600)
    stays(lambda: not ran(key), 0.7)
    for number in range(2):
        far_side.record(f"{key}:{number}:go")
    assert [one.get(timeout=WAIT) for one in busy] == [f"{key}:0", f"{key}:1"]
    assert good.get(timeout=WAIT) == "good"
    stays(lambda: values(key) == ["good"], 0.3)
    eventually(lambda: late.state == states.REVOKED)
