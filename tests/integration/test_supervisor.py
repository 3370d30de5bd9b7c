"""The supervisor on real processes: restarts, back-off, lines, and the stop."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from orchestrator.launch import processes
from orchestrator.launch.console import Console
from orchestrator.launch.processes import Program, Supervisor, command
from orchestrator.launch.watchdog import Watchdog
from tests.support.wait import eventually

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
WILLING = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    """A watchdog that ends with the test."""
    made = Watchdog()
    yield made
    made.close()


@pytest.fixture
def program(watchdog: Watchdog) -> Callable[..., Program]:
    """Make a program of a line of Python."""

    def make(name: str, code: str, stage: int = 0, **more: float | int) -> Program:
        start = command(watchdog, [sys.executable, "-c", code], dict(os.environ))
        return Program(name, start, stage, **more)  # type: ignore[arg-type]

    return make


def run(
    watchdog: Watchdog, programs: list[Program], until: Callable[[str, Supervisor], bool], limit: float = 60
) -> str:
    """Supervise until a condition on the output holds; return the output."""
    out = io.StringIO()
    supervisor = Supervisor(programs, watchdog, Console([made.name for made in programs], colour=False, out=out))
    deadline = time.monotonic() + 60

    def tick() -> None:
        assert time.monotonic() < deadline, out.getvalue()
        if until(out.getvalue(), supervisor):
            supervisor.request_stop()

    supervisor.run(tick)
    return out.getvalue()


def test_a_child_that_keeps_ending_is_started_ever_more_rarely(
    watchdog: Watchdog, program: Callable[..., Program]
) -> None:
    """The delay doubles; it also says how the child ended."""
    output = run(
        watchdog, [program("child", "import sys; sys.exit(3)")], lambda said, _: said.count("starts again in") == 3
    )
    assert re.findall(r"child ended with exit code 3; it starts again in (\S+) s", output) == ["0.5", "1", "2"]


def test_a_stable_run_forgives(
    watchdog: Watchdog, program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After it ran long enough, its next end is the first again."""
    monkeypatch.setattr(processes, "STABLE_AFTER", 0.3)
    code = "import os, signal, time; time.sleep(0.4); os.kill(os.getpid(), signal.SIGKILL)"
    output = run(watchdog, [program("child", code)], lambda said, _: said.count("starts again in") == 3)
    assert re.findall(r"child was killed by SIGKILL; it starts again in (\S+) s", output) == ["0.5"] * 3


def test_the_delay_has_an_end() -> None:
    """A child that ended a hundred times is still tried twice a minute."""
    delay = 0.0
    for _ in range(100):
        delay = processes._next_delay(delay, 0.0)
    assert delay == processes.LONGEST_DELAY


def test_a_program_that_does_not_exist_does_not_end_the_others(
    watchdog: Watchdog, program: Callable[..., Program]
) -> None:
    """It is named, and tried again."""
    missing = Program("missing", command(watchdog, ["/nonexistent/program"], {}), 0)
    output = run(
        watchdog, [missing, program("child", WILLING)], lambda said, _: "child   | up" in said and "0.5 s" in said
    )
    assert "missing cannot be started, tried again in 0.5 s" in output


def test_stages_stop_one_after_another(watchdog: Watchdog, program: Callable[..., Program]) -> None:
    """A later stage hears nothing before the earlier one has ended."""
    code = (
        "import signal, sys, time\n"
        "def stop(*_):\n    print('asked', flush=True); time.sleep(0.3); print('done', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(600)"
    )
    output = run(
        watchdog, [program("late", code, 2), program("early", code, 1)], lambda said, _: said.count("| up") == 2
    )
    said = re.findall(r"(\w+) +\| (asked|done)", output)
    assert said == [("early", "asked"), ("early", "done"), ("late", "asked"), ("late", "done")]


def test_one_that_does_not_stop_is_killed(
    watchdog: Watchdog, program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    """First hurried, then killed; nobody waits for ever."""
    monkeypatch.setattr(processes, "HURRY_TIMEOUT", 0.2)
    child = program("child", STUBBORN, stop_timeout=0.2, hurry=signal.SIGTERM)
    output = run(watchdog, [child], lambda said, _: "| up" in said)
    assert "child did not stop within 0.2 s; it is hurried" in output


def test_three_requests_kill(watchdog: Watchdog, program: Callable[..., Program]) -> None:
    """Whatever the time limits are."""

    def impatient(said: str, supervisor: Supervisor) -> bool:
        if "| up" not in said:
            return False
        supervisor.request_stop()
        supervisor.request_stop()
        return True

    began = time.monotonic()
    run(watchdog, [program("child", STUBBORN, stop_timeout=300, hurry=signal.SIGTERM)], impatient)
    assert time.monotonic() - began < 60


def test_grandchildren_go_too(watchdog: Watchdog, program: Callable[..., Program]) -> None:
    """What a child leaves behind in its group is ended with it."""
    code = (
        "import subprocess, sys, os\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdout=subprocess.DEVNULL)\n"
        "print('left', left.pid, flush=True); os._exit(0)"
    )
    output = run(watchdog, [program("child", code)], lambda said, _: "starts again in" in said)
    found = re.search(r"left (\d+)", output)
    assert found is not None
    eventually(lambda: not _alive(int(found[1])), 10, "the grandchild is gone")


def test_half_lines_and_odd_bytes(watchdog: Watchdog, program: Callable[..., Program]) -> None:
    """A line without an end is printed when its writer ends; bytes that are no text do no harm."""
    code = r"import os; os.write(1, b'one\ntwo \xff\nlast words')"
    output = run(watchdog, [program("child", code)], lambda said, _: "starts again in" in said)
    assert re.findall(r"child \| (.+)", output)[:3] == ["one", "two \ufffd", "last words"]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
