"""Chains, groups and chords, one in another: values, order, and each body once."""

from __future__ import annotations

import itertools

import pytest
from celery import chain, chord, group, signature, states
from celery.result import GroupResult

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, note, slow, total
from tests.support.wait import eventually, stays

WAIT = 30


def test_a_chain_hands_its_values_on_in_order(stack: Stack, key: str) -> None:
    sent = chain(add.s(1, 2, key=key), add.s(10, key=key), add.s(100, key=key), add.s(1000, key=key)).delay()
    assert sent.get(timeout=WAIT) == 1113
    assert values(key) == [3, 13, 113, 1113]
    # What follows is sent before the result is told, so another process may have told the last one first.
    links = (sent.parent, sent.parent.parent, sent.parent.parent.parent)
    assert [link.get(timeout=WAIT) for link in links] == [113, 13, 3]


def test_a_chain_is_one_family(stack: Stack, key: str) -> None:
    """Each link has the one before it as parent, and all have the first one as root."""
    sent = chain(note.s("a", key), note.s(key), note.s(key)).delay()
    assert sent.get(timeout=WAIT) == "a"
    first, second, third = ran(key)
    assert {link["root"] for link in (first, second, third)} == {first["id"]}
    assert [first["parent"], second["parent"], third["parent"]] == [None, first["id"], second["id"]]
    assert third["id"] == sent.id


def test_an_immutable_link_takes_nothing(stack: Stack, key: str) -> None:
    assert chain(add.s(1, 2, key=key), add.si(5, 5, key=key), add.s(1, key=key)).delay().get(timeout=WAIT) == 11
    assert values(key) == [3, 10, 11]


def test_a_long_chain(stack: Stack, key: str) -> None:
    assert chain(add.s(0, 0, key=key), *[add.s(1, key=key)] * 20).delay().get(timeout=WAIT) == 20
    assert values(key) == list(range(21))


def test_partial_arguments_and_named_ones_are_merged(stack: Stack, key: str) -> None:
    partial = add.s(1).clone(kwargs={"key": key})
    assert partial.delay(2).get(timeout=WAIT) == 3
    # As it comes out of a store.
    assert signature(dict(add.s(3, 4, key=key))).delay().get(timeout=WAIT) == 7
    assert values(key) == [3, 7]


def test_a_group_keeps_the_order_of_its_members(stack: Stack, key: str) -> None:
    """Whoever ends first: the first one takes longest."""
    sent = group(slow.s(0, key, 0.3), *[note.s(number, key) for number in range(1, 10)]).delay()
    assert sent.get(timeout=WAIT) == list(range(10))
    assert sorted(values(key)) == list(range(10))  # type: ignore[type-var]
    assert values(key)[0] != 0
    assert (sent.completed_count(), sent.successful(), sent.failed()) == (10, True, False)


def test_a_group_is_kept_and_found_again(stack: Stack, key: str) -> None:
    sent = group(note.s(number, key) for number in range(3)).delay()
    sent.save()
    found = GroupResult.restore(sent.id, app=get_app())
    assert found.get(timeout=WAIT) == [0, 1, 2]
    assert [member.id for member in found] == [member.id for member in sent]
    found.delete()
    assert GroupResult.restore(sent.id, app=get_app()) is None


def test_a_callback_of_a_group_follows_its_first_member(stack: Stack, key: str) -> None:
    """Celery's way, and without a value: no member knows those of the others."""
    made = group(note.s(number, f"{key}:member") for number in range(3))
    made.link(note.si("after", key))
    assert made.delay().get(timeout=WAIT) == [0, 1, 2]
    eventually(lambda: values(key) == ["after"])


def test_callbacks_of_a_task_each_get_its_value(stack: Stack, key: str) -> None:
    sent = add.apply_async((2, 2), {"key": key}, link=[add.s(10, key=f"{key}:a"), add.s(20, key=f"{key}:b")])
    assert sent.get(timeout=WAIT) == 4
    eventually(lambda: (values(f"{key}:a"), values(f"{key}:b")) == ([14], [24]))
    # Its family knows them: several callbacks are a group.
    (callbacks,) = sent.children
    assert sorted(callbacks.get(timeout=WAIT)) == [14, 24]
    assert next(value for _, value in sent.collect()) == 4


def test_a_group_in_a_chain_becomes_a_chord(stack: Stack, key: str) -> None:
    sent = chain(add.s(1, 1, key=key), group(add.s(number, key=key) for number in range(4)), total.s(f"{key}:body"))
    result = sent.delay()
    assert result.get(timeout=WAIT) == 14
    assert values(f"{key}:body") == [[2, 3, 4, 5]]
    assert len(ran(key)) == 5


def test_a_chain_may_end_or_begin_with_a_group(stack: Stack, key: str) -> None:
    assert chain(add.s(1, 1, key=key), group(add.s(1, key=key), add.s(2, key=key))).delay().get(timeout=WAIT) == [3, 4]
    begin = chain(group(add.s(1, 1, key=key), add.s(2, 2, key=key)), total.s(f"{key}:body"), add.s(1, key=key))
    assert begin.delay().get(timeout=WAIT) == 7
    assert values(f"{key}:body") == [[2, 4]]


def test_groups_one_after_another(stack: Stack, key: str) -> None:
    """The first one's values go to every member of the second."""
    first, second = (group(add.s(1, 1, key=key), add.s(2, 2, key=key)), group(total.s(f"{key}:a"), total.s(f"{key}:b")))
    assert chain(first, second, total.s(f"{key}:c")).delay().get(timeout=WAIT) == 12
    assert [values(f"{key}:{name}") for name in "abc"] == [[[2, 4]], [[2, 4]], [[6, 6]]]


def test_a_chord_sees_all_values_in_order_and_starts_once(stack: Stack, key: str) -> None:
    header = [slow.s(0, key, 0.3), *[note.s(number, key) for number in range(1, 30)]]
    assert chord(header, total.s(f"{key}:body")).delay().get(timeout=WAIT) == sum(range(30))
    assert values(f"{key}:body") == [list(range(30))]
    assert sorted(values(key)) == list(range(30))  # type: ignore[type-var]


@pytest.mark.parametrize("size", [0, 1])
def test_a_small_chord(stack: Stack, key: str, size: int) -> None:
    """Nobody, and one alone."""
    sent = chord([add.s(3, 4, key=key)] * size, total.s(f"{key}:body")).delay()
    assert sent.get(timeout=WAIT) == 7 * size
    assert values(f"{key}:body") == [[7] * size]


def test_a_chord_in_a_chord(stack: Stack, key: str) -> None:
    inner = [chord([add.s(number, n, key=key) for n in range(3)], total.s(f"{key}:inner")) for number in range(3)]
    assert chord(inner, total.s(f"{key}:outer")).delay().get(timeout=WAIT) == 18
    assert values(f"{key}:outer") == [[3, 6, 9]]
    assert sorted(values(f"{key}:inner")) == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]  # type: ignore[type-var]
    assert len(ran(key)) == 9


def test_a_chord_of_chains_groups_and_chords_with_a_chain_as_body(stack: Stack, key: str) -> None:
    header = [
        chain(add.s(1, 1, key=key), add.s(1, key=key)),
        chain(add.s(1, 1, key=key), group(add.s(1, key=key), add.s(2, key=key)), total.s(f"{key}:inner")),
        add.s(10, 10, key=key),
    ]
    body = chain(total.s(f"{key}:body"), add.s(1, key=key), note.s(f"{key}:end"))
    assert chord(header, body).delay().get(timeout=WAIT) == 31
    assert (values(f"{key}:body"), values(f"{key}:end")) == ([[3, 7, 20]], [31])


def test_a_chord_whose_body_is_a_group(stack: Stack, key: str) -> None:
    body = group(total.s(f"{key}:a"), total.s(f"{key}:b"))
    assert chord([add.s(1, 1, key=key), add.s(2, 2, key=key)], body).delay().get(timeout=WAIT) == [6, 6]
    assert (values(f"{key}:a"), values(f"{key}:b")) == ([[2, 4]], [[2, 4]])


def test_chords_in_a_row(stack: Stack, key: str) -> None:
    """The body of one begins the next."""
    steps = itertools.chain.from_iterable(
        (group(add.s(n, key=key) for n in range(3)), total.s(f"{key}:{step}")) for step in range(3)
    )
    assert chain(add.s(0, 1, key=key), *steps).delay().get(timeout=WAIT) == 66
    assert [values(f"{key}:{step}") for step in range(3)] == [[[1, 2, 3]], [[6, 7, 8]], [[21, 22, 23]]]


def test_chunks_map_and_starmap(stack: Stack, key: str) -> None:
    chunked = add.chunks([(n, n, key) for n in range(5)], 2).group().delay()
    assert chunked.get(timeout=WAIT) == [[0, 2], [4, 6], [8]]
    assert add.starmap([(1, 1, key), (2, 2, key)]).delay().get(timeout=WAIT) == [2, 4]
    assert len(ran(key)) == 7


def test_a_task_may_publish_a_canvas(stack: Stack, key: str) -> None:
    """A callback that itself is a chord."""
    first = add.s(1, 1, key=key)
    first.link(chord([add.s(n, key=key) for n in range(3)], total.s(f"{key}:body")))
    assert first.delay().get(timeout=WAIT) == 2
    eventually(lambda: values(f"{key}:body") == [[2, 3, 4]])


def test_states_on_the_way(stack: Stack, key: str) -> None:
    """What has not begun is pending; what came of it is kept and can be forgotten."""
    sent = chain(slow.s(1, key, 0.5), add.s(1, key=key)).delay()
    assert sent.state == states.PENDING
    eventually(lambda: sent.parent.state == states.STARTED)
    assert sent.get(timeout=WAIT) == 2
    assert sent.state == states.SUCCESS
    eventually(lambda: sent.parent.state == states.SUCCESS)
    sent.forget()
    stays(lambda: get_app().AsyncResult(sent.id).state == states.PENDING, 0.3)
