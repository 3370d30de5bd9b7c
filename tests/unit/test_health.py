"""Checks with a time limit, and the verdict over them."""

from __future__ import annotations

import threading

import pytest

from orchestrator.monitoring.health import Check, Degraded, Verdict, run, verdict


def degraded(_timeout: float) -> str:
    raise Degraded("look at me")


def broken(_timeout: float) -> str:
    raise ConnectionError("redis://:sesame@example is away")


def test_each_check_ends_in_one_of_three_verdicts() -> None:
    """What a check returns or raises becomes its verdict and remark."""
    found = run([Check("a", lambda _: "fine"), Check("b", degraded), Check("c", broken)])
    assert [(one.name, one.verdict) for one in found] == [
        ("a", Verdict.HEALTHY),
        ("b", Verdict.DEGRADED),
        ("c", Verdict.UNREACHABLE),
    ]
    assert [one.remark for one in found[:2]] == ["fine", "look at me"]
    assert "ConnectionError" in found[2].remark


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([], Verdict.HEALTHY),
        ([Check("a", lambda _: "")], Verdict.HEALTHY),
        ([Check("a", lambda _: ""), Check("b", degraded)], Verdict.DEGRADED),
        ([Check("b", degraded), Check("c", broken)], Verdict.UNREACHABLE),
        ([Check("c", broken, critical=False)], Verdict.DEGRADED),
    ],
)
def test_the_worst_finding_is_the_verdict(checks: list[Check], expected: Verdict) -> None:
    """A check that is not critical degrades the whole, however badly it ends."""
    assert verdict(run(checks)) is expected


def test_a_hanging_check_is_reported_in_time_and_not_started_twice() -> None:
    """Probes that come while a check hangs wait for that run; they cannot pile up threads."""
    release, starts = threading.Event(), []

    def hang(_timeout: float) -> str:
        starts.append(1)
        release.wait(30)
        return "at last"

    check = Check("slow", hang, timeout=0.05)
    try:
        for _ in range(3):
            (found,) = run([check])
            assert found.verdict is Verdict.UNREACHABLE
            assert "0.05 s" in found.remark
            assert found.seconds < 5
        assert len(starts) == 1
    finally:
        release.set()
    (found,) = run([Check("slow", hang, timeout=30)])
    assert found.remark == "at last"


def test_checks_run_side_by_side() -> None:
    """Each waits for the other, so one after the other would never end well."""
    meeting = threading.Barrier(2, timeout=20)

    def meet(_timeout: float) -> str:
        return str(meeting.wait())

    found = run([Check("a", lambda t: meet(t), timeout=30), Check("b", lambda t: meet(t), timeout=30)])
    assert {one.remark for one in found} == {"0", "1"}
