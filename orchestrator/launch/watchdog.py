"""Makes sure that no process outlives the one that started it, even when that one is SIGKILLed.

Run as a script it is the watchdog itself: a tiny process that reads on standard
input which process groups exist and, once its parent is gone, ends them; or the
first moments of a child. Imported, it gives :class:`Watchdog`, the parent's end.

Two lines of defence, because each has a hole. The kernel's parent-death signal is
immediate but reaches only direct children, only on Linux, and fires when the
*thread* that forked ends. The watchdog reaches whole process groups on any Unix,
but could be killed itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: Seconds that groups have to end by themselves after the parent's death.
ORPHAN_GRACE = 3.0
_PR_SET_PDEATHSIG = 1


class Watchdog:
    """Starts children that die with this process.

    One watchdog process serves any number of children; it starts with the first.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: dict[int, int] = {}
        self._files: set[Path] = set()

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        death_signal: int = signal.SIGKILL,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a child in a process group of its own and put it on the leash.

        Args:
            death_signal: What the child's group gets when this process dies.

        Raises:
            OSError: the program cannot be started.
        """
        child = subprocess.Popen(
            _on_leash([str(part) for part in argv], env, death_signal),
            env=dict(env) if env is not None else None,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            process_group=0,
        )
        self._groups[child.pid] = death_signal
        self._tell(f"+{child.pid} {int(death_signal)}")
        return child

    def release(self, pid: int) -> None:
        """End what is left of a child's group after the child ended, and forget it."""
        # Once only: later the number may belong to somebody else.
        if self._groups.pop(pid, None) is not None:
            signal_group(pid, signal.SIGKILL)
            self._tell(f"-{pid}")

    def remove_when_orphaned(self, path: Path) -> None:
        """Have a file removed if this process dies without doing so."""
        self._files.add(path)
        self._tell(f"f{path}")

    def close(self) -> None:
        """End the watchdog process. Whatever it still watches is ended too."""
        process, self._process = self._process, None
        self._groups.clear()
        self._files.clear()
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
            return
        try:
            self._write(line)
        except OSError:
            self._start()

    def _start(self) -> None:
        # -I and -S: it must start at once and must not read anybody's site-packages.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, "watch", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for pid, death_signal in self._groups.items():
            self._write(f"+{pid} {int(death_signal)}")
        for path in self._files:
            self._write(f"f{path}")

    def _write(self, line: str) -> None:
        assert self._process is not None and self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; False if nobody is in it any more."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS says this of a group that holds only zombies.
        return False
    return True


def _on_leash(argv: list[str], env: Mapping[str, str] | None, death_signal: int) -> list[str]:
    """Return the command that becomes this one after it asked the kernel to end it with its parent.

    A command in between, because code that runs between fork and exec may hang if
    this process has threads.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        # From another thread the signal would come when that thread ends; the watchdog remains.
        return argv
    program = shutil.which(argv[0], path=(os.environ if env is None else env).get("PATH", os.defpath))
    if program is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    return [sys.executable, "-I", "-S", __file__, "become", str(int(death_signal)), str(os.getpid()), program, *argv]


def _become(death_signal: int, parent: int, program: str, argv: list[str]) -> None:
    """Ask for the signal, then replace this process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() == parent:  # else it died before the call, and no signal will come
        os.execv(program, argv)  # noqa: S606 - that is the point


def _watch(parent: int) -> None:
    """Read orders until the parent is gone, then end every group that is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: dict[int, int] = {}
    files: list[Path] = []
    buffer = b""
    while True:
        # The timeout is for the case that somebody else still holds the pipe's other end.
        if not select.select([0], [], [], 0.5)[0]:
            if os.getppid() != parent:
                break
            continue
        data = os.read(0, 65536)
        if not data:
            break
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            _obey(line.decode(), groups, files)
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink()
    _end(groups)


def _obey(line: str, groups: dict[int, int], files: list[Path]) -> None:
    if line.startswith("+"):
        group, number = line[1:].split()
        groups[int(group)] = int(number)
    elif line.startswith("-"):
        groups.pop(int(line[1:]), None)
    elif line.startswith("f"):
        files.append(Path(line[1:]))


def _end(groups: Mapping[int, int]) -> None:
    left = [group for group, number in groups.items() if signal_group(group, number)]
    deadline = time.monotonic() + ORPHAN_GRACE
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = [group for group in left if signal_group(group, 0)]
    for group in left:
        signal_group(group, signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "become":
        _become(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
    else:
        _watch(int(sys.argv[2]))
