"""What fails in a canvas: who hears of it, what does not run, what lies in the inbox."""

from __future__ import annotations

import pytest
from celery import chain, chord, group, states
from celery.exceptions import ChordError

from orchestrator.celery import get_app
from orchestrator.deadletters.models import DeadLetter
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, fail, note, told_all, told_id, total
from tests.support.wait import eventually, stays

WAIT = 30


def buried(task_id: str) -> bool:
    return DeadLetter.objects.filter(task_id=task_id).count() == 1


def chord_error(body_id: str, text: str) -> None:
    """Expect that a chord's body fails in the place of its header."""
    with pytest.raises(ChordError, match=text):
        # By its id: a result that knows its parents raises their errors first.
        get_app().AsyncResult(body_id).get(timeout=WAIT)


def test_a_chain_stops_where_it_fails(stack: Stack, key: str) -> None:
    sent = chain(add.s(1, 1, key=key), fail.s(key=key), note.s(f"{key}:never"), note.s(f"{key}:never")).delay()
    broken = sent.parent.parent
    with pytest.raises(LookupError, match="no such order"):
        # Who waits for the end hears of it.
        sent.get(timeout=WAIT)
    assert broken.state == states.FAILURE
    eventually(lambda: broken.parent.state == states.SUCCESS)
    # What cannot run any more is told so, but for what lies in between.
    eventually(lambda: sent.state == states.FAILURE)
    assert isinstance(broken.result, LookupError)
    assert "fail" in broken.traceback
    eventually(lambda: buried(broken.id))
    assert len(ran(key)) == 2
    stays(lambda: not ran(f"{key}:never"), 0.3)


def test_errbacks_are_told_once_each(stack: Stack, key: str) -> None:
    """The published kind gets the id, the other kind all there is."""
    sent = fail.apply_async(
        kwargs={"key": key}, link_error=[told_id.s(key=f"{key}:id"), told_all.s(key=f"{key}:all")], link=note.s(key)
    )
    eventually(lambda: ran(f"{key}:id") and ran(f"{key}:all"))
    assert values(f"{key}:id") == [sent.id]
    assert values(f"{key}:all") == [[sent.id, "LookupError", "no such order"]]
    assert len(ran(key)) == 1
    eventually(lambda: buried(sent.id))


def test_an_errback_of_a_chain_hears_of_any_link(stack: Stack, key: str) -> None:
    made = chain(add.s(1, 1, key=key), fail.s(key=key), add.s(1, key=f"{key}:never"))
    made.on_error(told_all.s(key=f"{key}:all"))
    sent = made.delay()
    eventually(lambda: ran(f"{key}:all"))
    assert values(f"{key}:all") == [[sent.parent.id, "LookupError", "no such order"]]
    stays(lambda: len(ran(f"{key}:all")) == 1 and not ran(f"{key}:never"), 0.3)


def test_a_group_with_a_member_that_fails(stack: Stack, key: str) -> None:
    sent = group(add.s(1, 1, key=key), fail.s(key=key), add.s(2, 2, key=key)).delay()
    with pytest.raises(LookupError):
        sent.get(timeout=WAIT)
    found = sent.get(timeout=WAIT, propagate=False)
    assert (found[0], type(found[1]), found[2]) == (2, LookupError, 4)
    eventually(sent.ready)
    assert (sent.failed(), sent.successful(), sent.completed_count()) == (True, False, 2)
    assert len(ran(key)) == 3


def test_a_chord_with_a_member_that_fails(stack: Stack, key: str) -> None:
    """The body fails in its place, its errback is told once, and the member lies in the inbox."""
    body = total.s(f"{key}:never")
    body.on_error(told_all.s(key=f"{key}:all"))
    sent = chord([add.s(1, 1, key=key), fail.s(key=key), add.s(2, 2, key=key)], body).delay()
    chord_error(sent.id, "failed")
    eventually(lambda: ran(f"{key}:all"))
    assert [told[:2] for told in values(f"{key}:all")] == [[sent.id, "ChordError"]]  # type: ignore[index]
    assert len(ran(key)) == 3
    eventually(lambda: buried(sent.parent[1].id))
    stays(lambda: not ran(f"{key}:never") and len(ran(f"{key}:all")) == 1, 0.3)


def test_the_error_of_an_inner_chord_reaches_the_outer_body(stack: Stack, key: str) -> None:
    inner = chord([add.s(1, 1, key=key), fail.s(key=key)], total.s(f"{key}:inner"))
    outer = total.s(f"{key}:outer")
    outer.on_error(told_all.s(key=f"{key}:all"))
    sent = chord([inner, add.s(2, 2, key=key)], outer).delay()
    chord_error(sent.id, "failed")
    eventually(lambda: ran(f"{key}:all"))
    stays(lambda: not ran(f"{key}:inner") and not ran(f"{key}:outer") and len(ran(f"{key}:all")) == 1, 0.3)


def test_a_chord_in_a_chain_stops_it(stack: Stack, key: str) -> None:
    made = chain(add.s(1, 1, key=key), group(fail.s(key=key), add.s(1, key=key)), total.s(f"{key}:never"))
    sent = chain(made, note.s(f"{key}:never")).delay()
    chord_error(sent.parent.id, "failed")
    stays(lambda: not ran(f"{key}:never"), 0.3)


def test_a_callback_is_not_called_for_a_failure_nor_an_errback_for_a_success(stack: Stack, key: str) -> None:
    sent = add.apply_async((1, 1), {"key": key}, link=note.s(f"{key}:link"), link_error=told_id.s(key=f"{key}:never"))
    assert sent.get(timeout=WAIT) == 2
    eventually(lambda: values(f"{key}:link") == [2])
    stays(lambda: not ran(f"{key}:never"), 0.3)
