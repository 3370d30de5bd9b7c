"""Retries of Celery's own kinds and of ours: how often, with what, and what follows them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from celery import chain, chord, states

from orchestrator.deadletters.models import DeadLetter
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, asks_again, autoretried, declared, note, told_all, total
from tests.support.wait import eventually, stays

WAIT = 30
KINDS = pytest.mark.parametrize("kind", [autoretried, declared], ids=["autoretry_for", "Retries"])


@KINDS
def test_a_task_is_tried_until_it_is_well(stack: Stack, key: str, kind: Any) -> None:
    sent = kind.delay("done", key, 2)
    assert sent.get(timeout=WAIT) == "done"
    assert values(key) == [0, 1, 2]
    assert {attempt["id"] for attempt in ran(key)} == {sent.id}


@KINDS
def test_a_task_is_tried_no_more_than_it_says(stack: Stack, key: str, kind: Any) -> None:
    """Once and three times again; the errback hears of the end only."""
    sent = kind.apply_async(("never", key, 99), link_error=told_all.s(key=f"{key}:all"))
    with pytest.raises(ConnectionError, match="attempt 3"):
        sent.get(timeout=WAIT)
    assert values(key) == [0, 1, 2, 3]
    eventually(lambda: values(f"{key}:all") == [[sent.id, "ConnectionError", "attempt 3"]])
    eventually(lambda: DeadLetter.objects.filter(task_id=sent.id).exists())
    stays(lambda: len(ran(key)) == 4 and len(ran(f"{key}:all")) == 1, 0.3)
    letter = DeadLetter.objects.get(task_id=sent.id)
    assert (letter.reason, letter.retries) == ("retries_exhausted", 3)


@KINDS
def test_retries_within_a_canvas(stack: Stack, key: str, kind: Any) -> None:
    """What follows waits for the good attempt, and starts once."""
    header = [kind.s(number, key, number) for number in range(3)]
    made = chain(chord(header, total.s(f"{key}:body")), kind.s(f"{key}:link", 1), note.s(f"{key}:end"))
    assert made.delay().get(timeout=WAIT) == 3
    assert (values(f"{key}:body"), values(f"{key}:link"), values(f"{key}:end")) == ([[0, 1, 2]], [0, 1], [3])
    assert sorted(values(key)) == [0, 0, 0, 1, 1, 2]  # type: ignore[type-var]


@pytest.mark.parametrize("countdown", [0, 0.3, 1.2])
def test_a_retry_by_hand_with_other_arguments(stack: Stack, key: str, countdown: float) -> None:
    sent = asks_again.apply_async((10, key, 2, countdown), link=add.s(100, key=f"{key}:link"))
    assert sent.get(timeout=WAIT) == 12
    assert values(key) == [[0, 10], [1, 11], [2, 12]]
    times = [attempt["at"] for attempt in ran(key)]
    assert all(later - first >= countdown * 0.99 for first, later in itertools.pairwise(times))
    eventually(lambda: values(f"{key}:link") == [112])


def test_a_task_that_waits_for_its_retry_says_so(stack: Stack, key: str) -> None:
    sent = asks_again.delay(1, key, 1, countdown=1.2)
    eventually(lambda: sent.state == states.RETRY)
    assert sent.get(timeout=WAIT) == 2
