"""The template: a process that does nothing but fork, from memory that nobody has written to since the import.

Children share its memory for as long as they do not write to it. The supervisor itself
would be no good parent: it has connections, and its memory changes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from orchestrator.engine.swarm.lines import Lines, pair
from orchestrator.engine.swarm.mortality import die_with_parent

#: Runs in a child until its end; returns the exit code.
Body = Callable[[dict[str, Any]], int]

#: Signals that only the supervisor answers. A terminal, or a platform, may send them to every process.
_FOR_THE_SUPERVISOR = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
#: Tells a child to look at its orders; ignored until it can.
LOOK_UP = signal.SIGUSR2


class Template:
    """The supervisor's hold on the template process."""

    def __init__(self, body: Body) -> None:
        """Fork it.

        Args:
            body: what a child does; gets the orders of :meth:`fork`.
        """
        self.lines, theirs = pair()
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _guarded(lambda: _serve(supervisor, self.lines, theirs, body))
        theirs.close()

    def fork(self, orders: dict[str, Any]) -> None:
        """Ask for a child. The answer is ``{"born": pid, "orders": …}``, and ``{"died": pid, "status": …}`` at its end."""
        self.lines.send(orders)

    def close(self) -> None:
        """End it, and any child that is left."""
        self.lines.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def gone(self) -> bool:
        """Whether it has ended, which it never does by itself."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True


def _serve(supervisor: int, inherited: Lines, lines: Lines, body: Body) -> int:
    inherited.close()
    die_with_parent(supervisor)
    for number in (*_FOR_THE_SUPERVISOR, LOOK_UP):
        signal.signal(number, signal.SIG_IGN)
    bell, wake = os.pipe()
    for end in (bell, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    while not lines.ended:
        select.select([lines, bell], [], [], 1.0)
        with contextlib.suppress(BlockingIOError):
            os.read(bell, 4096)
        for orders in lines.receive():
            pid = _fork(orders, lines, (bell, wake), body)
            children.add(pid)
            lines.send({"born": pid, "orders": orders})
        for pid, status in _ended(children):
            lines.send({"died": pid, "status": status})
        lines.flush()
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return 0


def _fork(orders: dict[str, Any], lines: Lines, pipe: tuple[int, int], body: Body) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent)
        lines.close()
        for end in pipe:
            os.close(end)
        _guarded(lambda: body(orders))
    return pid


def _ended(children: set[int]) -> list[tuple[int, int]]:
    found = []
    for pid in list(children):
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended, status = pid, 0
        if ended:
            children.discard(pid)
            found.append((pid, status))
    return found


def _guarded(body: Callable[[], int]) -> NoReturn:
    """Run the rest of a forked process; nothing of it returns to where its parent goes on."""
    code = 1
    try:
        code = body()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        # Not sys.exit: exit handlers are the business of the process that registered them.
        os._exit(code)
