"""Supervises child processes: their lines, their restarts, and an ordered stop.

One thread does everything, since the kernel's parent-death signal belongs to the
thread that forked.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestrator.launch.console import Console
from orchestrator.launch.watchdog import Watchdog, signal_group

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
#: Seconds a child must run for its next end to count as the first again.
STABLE_AFTER = 30.0
#: Seconds a child gets after it was hurried.
HURRY_TIMEOUT = 5.0
_BUFFER = 65536


class Starter(Protocol):
    """Starts one child; called again for every restart."""

    def __call__(self) -> subprocess.Popen[bytes]:
        """Return the running child, in a process group of its own.

        Raises:
            Exception: it cannot be started; tried again with back-off.
        """


@dataclass(frozen=True, slots=True)
class Program:
    """What is known about a child before it runs.

    Attributes:
        stage: Children stop in ascending order of stages; those of one stage together.
        stop_timeout: Seconds that a stop may take before the child is hurried.
        hurry: Signal that makes it end at once, in order; SIGKILL follows.
    """

    name: str
    start: Starter
    stage: int
    stop_timeout: float = 10.0
    hurry: int = signal.SIGKILL


@dataclass(slots=True)
class _Child:
    program: Program
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    delay: float = 0.0
    due: float = 0.0
    buffer: bytes = b""
    deadline: float = field(default=float("inf"))
    hurried: bool = False


def command(watchdog: Watchdog, argv: Sequence[str], env: Mapping[str, str]) -> Callable[[], subprocess.Popen[bytes]]:
    """Return a starter for a command whose output is a pipe to us."""

    def start() -> subprocess.Popen[bytes]:
        return watchdog.spawn(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return start


class Supervisor:
    """Runs programs until told to stop.

    ``run`` blocks; :meth:`request_stop` is what a signal handler calls, once for an
    ordered stop, twice to hurry it, three times to kill.
    """

    def __init__(self, programs: Sequence[Program], watchdog: Watchdog, console: Console) -> None:
        self._children = [_Child(program) for program in programs]
        self._watchdog = watchdog
        self._console = console
        self._selector = selectors.DefaultSelector()
        self._requests = 0
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._waker, False)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def request_stop(self, *_: object) -> None:
        """Ask for a stop; may be called from a signal handler."""
        self._requests += 1
        with contextlib.suppress(OSError):
            os.write(self._waker, b"!")

    def adopt(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Take a program that runs already, so that it is supervised from here on."""
        child = next(child for child in self._children if child.program.name == name)
        self._took(child, process)

    def run(self, on_tick: Callable[[], None] = lambda: None) -> None:
        """Start what does not run yet, keep everything running, and stop in order when asked.

        Args:
            on_tick: Called a few times a second while nothing is being stopped; must not block for long.
        """
        try:
            while not self._requests and not self._console.closed:
                for child in self._children:
                    self._keep_running(child)
                on_tick()
                self._listen(0.2)
        finally:
            # Whatever went wrong, nothing stays behind.
            self._stop_all()

    def _keep_running(self, child: _Child) -> None:
        now = time.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                return
            self._ended(child)
            child.delay = _next_delay(child.delay, now - child.started_at)
            child.due = now + child.delay
            self._console.say(f"{child.program.name} {describe(code)}; it starts again in {child.delay:g} s")
        if now < child.due:
            return
        try:
            self._took(child, child.program.start())
        except Exception as error:
            child.delay = _next_delay(child.delay, 0.0)
            child.due = now + child.delay
            self._console.say(f"{child.program.name} cannot be started, tried again in {child.delay:g} s: {error}")

    def _took(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        child.process = process
        child.started_at = time.monotonic()
        child.buffer = b""
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ, child)

    def _ended(self, child: _Child) -> None:
        """Print the last lines of a child that ended, and end what is left of its group."""
        process = child.process
        assert process is not None  # noqa: S101
        self._watchdog.release(process.pid)
        if process.stdout is not None:
            while self._read(child):
                pass
            if child.buffer:
                self._print(child, child.buffer)
            with contextlib.suppress(KeyError):
                self._selector.unregister(process.stdout)
            process.stdout.close()
        child.process = None

    def _listen(self, timeout: float) -> None:
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 1024)
            else:
                self._read(key.data)

    def _read(self, child: _Child) -> bool:
        """Take what a child wrote, at most one buffer full; False if there was nothing."""
        assert child.process is not None and child.process.stdout is not None  # noqa: S101
        pipe = child.process.stdout
        try:
            data = os.read(pipe.fileno(), _BUFFER)
        except BlockingIOError:
            return False
        if not data:
            # End of file: it closed its output, and would wake us for ever.
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
            return False
        *lines, child.buffer = (child.buffer + data).split(b"\n")
        if len(child.buffer) > _BUFFER:
            lines, child.buffer = [*lines, child.buffer], b""
        for line in lines:
            self._print(child, line)
        return True

    def _print(self, child: _Child, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._console.line(child.program.name, text)

    # --- stop -----------------------------------------------------------------

    def _stop_all(self) -> None:
        self._requests = max(self._requests, 1)
        for stage in sorted({child.program.stage for child in self._children}):
            going = [child for child in self._children if child.program.stage == stage and child.process is not None]
            for child in going:
                assert child.process is not None  # noqa: S101
                child.deadline = time.monotonic() + child.program.stop_timeout
                child.process.send_signal(signal.SIGTERM)
            while going:
                self._listen(0.05)
                for child in going:
                    self._see_off(child)
                going = [child for child in going if child.process is not None]
        self._selector.close()
        waker, self._waker = self._waker, -1  # a late signal must not write to a number that is reused
        os.close(self._wake)
        os.close(waker)

    def _see_off(self, child: _Child) -> None:
        """Look after a child that was asked to stop: reap it, hurry it, kill it."""
        process, program, now = child.process, child.program, time.monotonic()
        assert process is not None  # noqa: S101
        if process.poll() is not None:
            self._ended(child)
        elif self._requests > 2 or (child.hurried and now > child.deadline):
            signal_group(process.pid, signal.SIGKILL)
        elif not child.hurried and (self._requests > 1 or now > child.deadline):
            if now > child.deadline:
                self._console.say(f"{program.name} did not stop within {program.stop_timeout:g} s; it is hurried")
            child.hurried = True
            child.deadline = now + HURRY_TIMEOUT
            process.send_signal(program.hurry)


def _next_delay(delay: float, ran: float) -> float:
    """Return the seconds until the next start of a child that ran so many seconds."""
    if ran >= STABLE_AFTER or not delay:
        return FIRST_DELAY
    return min(delay * 2, LONGEST_DELAY)


def describe(code: int) -> str:
    """Say in words how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
