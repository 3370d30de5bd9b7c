"""A real subprocess of the platform: own process group, log in a file, gone at the end."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from orchestrator.launch.watchdog import Watchdog
from tests.support.wait import eventually

ROOT = Path(__file__).resolve().parent.parent.parent

MANAGE = str(ROOT / "manage.py")

_numbers = itertools.count(1)
# Ends every process group that is left when this process ends, even by SIGKILL.
_watchdog = Watchdog()
_owner = os.getpid()


class Process:
    """One subprocess; a context manager that starts it, waits until it is ready and stops it.

    Args:
        command: argument list; ``python`` stands for this interpreter.
        name: for its log file and messages.
        directory: where the log goes.
        env: additions to the environment; None removes a variable.
        ready: pattern in the log that says it is ready, or "" to return at once.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        directory: Path,
        env: Mapping[str, str | None] | None = None,
        ready: str = "",
    ) -> None:
        self.command = [sys.executable if part == "python" else str(part) for part in command]
        self.name = f"{name}-{next(_numbers)}"
        self.log_path = directory / f"{self.name}.log"
        self.ready = re.compile(ready) if ready else None
        # Asked by SIGABRT, it tells where its threads are.
        python = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        self.env = {**os.environ, **python}
        for key, value in (env or {}).items():
            if value is None:
                self.env.pop(key, None)
            else:
                self.env[key] = value
        self._popen: subprocess.Popen[bytes] | None = None

    # --- life -----------------------------------------------------------------

    def start(self, timeout: float = 60.0) -> Self:
        """Start it and wait until it is ready, or fail with its log."""
        return self.await_ready(self.launch(), timeout)

    def await_ready(self, already: int, timeout: float = 60.0) -> Self:
        """Wait until it is ready, for who launched it together with others.

        Args:
            already: what :meth:`launch` returned.
        """
        if self.ready is not None:
            pattern = self.ready
            eventually(
                lambda: self._check_alive() and pattern.search(self.log[already:]),
                timeout,
                lambda: f"{self.name} ready ({pattern.pattern!r})\n{self.tail()}",
            )
        return self

    def launch(self) -> int:
        """Start it without waiting; return how many bytes its log had before."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        # Append: a process that is started a second time keeps the story of its first life.
        with self.log_path.open("ab") as log:
            already = log.tell()
            self._popen = _watchdog.spawn(self.command, env=self.env, stdout=log, stderr=subprocess.STDOUT)
        return already

    def stop(self, timeout: float = 60.0, sig: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, wait, and return its exit code; then make sure that its group is gone."""
        if self.running:
            os.kill(self.pid, sig)
        return self.wait(timeout)

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process alone, not to its children."""
        os.kill(self.pid, sig)

    def kill_group(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process and everything it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, sig)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its end and return the exit code (negative: the signal).

        Raises:
            AssertionError: it did not end, and what its threads were at; it is killed then.
        """
        assert self._popen is not None, f"{self.name} was never started"
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            already = len(self.log)
            self.kill(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(5)
            stacks = self.log[already:]
            raise AssertionError(f"{self.name} did not end within {timeout:g} s\n{stacks}\n{self.tail()}") from None
        finally:
            self.kill_group()
            self._popen.wait()
            _watchdog.release(self.pid)

    def __enter__(self) -> Self:
        return self if self._popen is not None else self.start()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.stop()

    def _check_alive(self) -> bool:
        assert self._popen is not None
        if self._popen.poll() is not None:
            # RuntimeError, not AssertionError: waiting longer cannot help.
            raise RuntimeError(f"{self.name} ended with {self._popen.returncode} before it was ready\n{self.tail()}")
        return True

    # --- looks ----------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._popen is not None and self._popen.poll() is None

    def children(self) -> list[int]:
        """Pids of everything below it, oldest first."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in found if _is_running(child)]

    @property
    def log(self) -> str:
        """Everything it wrote."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int = 60) -> str:
        """The end of its log, with a heading."""
        end = self.log.splitlines()[-lines:]
        return "\n".join([f"--- {self.name}: {' '.join(self.command)}", *end, "---"])

    def wait_for_log(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
        """Wait for a line in its log."""
        found = eventually(
            lambda: re.search(pattern, self.log, re.MULTILINE),
            timeout,
            lambda: f"{pattern!r} in the log of {self.name}\n{self.tail()}",
        )
        assert found is not None
        return found


def _is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@atexit.register
def _end_all() -> None:
    if os.getpid() == _owner:
        _watchdog.close()
