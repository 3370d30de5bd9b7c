"""``progress``: what is reported, how often, and that it never stands in the task's way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import _task_stack

from orchestrator import progress
from orchestrator.engine import progress as module


class RunningTask:
    """What the worker puts on its stack: a task with a request, and with somewhere to report to."""

    name = "films.render"

    def __init__(self) -> None:
        self.request = SimpleNamespace(id="id-1", called_directly=False)
        self.events: list[dict[str, Any]] = []
        self.states: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def send_event(self, kind: str, retry: bool, **fields: Any) -> None:
        if self.error is not None:
            raise self.error
        assert (kind, retry) == ("task-progress", False)
        self.events.append(fields)

    def update_state(self, state: str, meta: dict[str, Any]) -> None:
        assert state == "PROGRESS"
        self.states.append(meta)


@pytest.fixture
def running() -> Iterator[RunningTask]:
    task = RunningTask()
    _task_stack.push(task)
    yield task
    _task_stack.pop()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


def test_outside_of_a_task_nothing_happens() -> None:
    progress(1, 2, "nobody listens")


def test_a_report_goes_to_the_result_and_to_flower(running: RunningTask) -> None:
    progress(5, 60, "frames")
    assert running.states == [{"current": 5, "total": 60, "percent": 8, "message": "frames"}]
    assert running.events == [{**running.states[0], "result": "5/60 (8%) frames"}]


def test_first_and_last_are_always_reported_and_four_a_second_between(
    running: RunningTask, clock: SimpleNamespace
) -> None:
    for current in range(1001):
        clock.now = 100.0 + current / 100  # ten seconds in all
        progress(current, 1000)
    percents = [meta["current"] for meta in running.states]
    assert percents[0] == 0
    assert percents[-1] == 1000
    assert 38 <= len(percents) <= 42


def test_the_last_report_is_not_held_back_and_not_doubled(running: RunningTask, clock: SimpleNamespace) -> None:
    progress(1, 3)
    progress(3, 3)
    progress(3, 3)
    assert [meta["current"] for meta in running.states] == [1, 3]


@pytest.mark.parametrize(
    ("current", "total", "percent"), [(0, 0, 100), (7, 5, 100), (-1, 5, 0), (2, 3, 66), (1.5, 2, 75)]
)
def test_percent_stays_between_0_and_100(running: RunningTask, current: float, total: float, percent: int) -> None:
    progress(current, total)
    assert running.states[0]["percent"] == percent


def test_a_store_that_is_down_costs_the_report_and_one_warning(
    running: RunningTask, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    running.error = ConnectionError("broker is away")
    with caplog.at_level(logging.WARNING):
        for current in range(11):
            clock.now = 100.0 + current
            progress(current, 10)
        running.error = None
        clock.now = 130.0
        progress(10, 10, "back")
    assert [record.message for record in caplog.records] == ["Progress of films.render[id-1] is not reported."]
    assert [meta["message"] for meta in running.states] == ["back"]


def test_a_soft_time_limit_passes_through(running: RunningTask) -> None:
    running.error = SoftTimeLimitExceeded()
    with pytest.raises(SoftTimeLimitExceeded):
        progress(1, 2)


def test_a_new_attempt_starts_afresh(running: RunningTask, clock: SimpleNamespace) -> None:
    progress(1, 2)
    running.request = SimpleNamespace(id="id-1", called_directly=False)
    progress(1, 2)
    assert len(running.states) == 2
