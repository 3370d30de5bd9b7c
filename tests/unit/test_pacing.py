"""How many messages a process takes at once follows how long its tasks take."""

from __future__ import annotations

from orchestrator.transport.pacing import HORIZON, MOST, Pace


def test_nothing_is_held_back_before_anything_is_known() -> None:
    assert Pace().batch(1, 1) == 1
    assert Pace().batch(3, 4) == 3


def test_short_tasks_are_taken_by_the_handful_and_long_ones_singly() -> None:
    short, middling, long = Pace(), Pace(), Pace()
    for _ in range(20):
        short.note("noop", 0.0005)
        middling.note("query", 0.02)
        long.note("report", 5.0)
    assert short.batch(1, 1) == MOST
    assert middling.batch(1, 1) == 5
    assert middling.batch(1, 2) == 10
    assert long.batch(1, 4) == 1
    assert long.batch(3, 4) == 3, "what can start at once may always be taken"


def test_one_long_run_among_short_ones_slows_the_claims_at_once() -> None:
    pace = Pace()
    for _ in range(100):
        pace.note("noop", 0.0005)
    pace.note("report", 5.0)
    assert pace.batch(1, 1) == 1
    assert pace.is_long("report")
    assert not pace.is_long("noop")
    assert not pace.is_long("never seen")


def test_a_task_is_long_if_others_would_wait_too_long_behind_it() -> None:
    pace = Pace()
    pace.note("at the edge", HORIZON)
    pace.note("beyond", HORIZON * 1.01)
    assert (pace.is_long("at the edge"), pace.is_long("beyond")) == (False, True)
