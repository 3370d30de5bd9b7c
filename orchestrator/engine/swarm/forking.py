"""Making a child: what of its parent it must not keep, and where it must not return to."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

from orchestrator.engine.swarm.mortality import die_with_parent

#: Tells a child to look at its orders; ignored until it can.
LOOK_UP = signal.SIGUSR2
#: Signals that only the supervisor answers. A terminal, or a platform, may send them to every process.
_FOR_THE_SUPERVISOR = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


def open_sockets() -> set[int]:
    """Return the descriptors of this process that are sockets."""
    found = set()
    for entry in _DESCRIPTORS.iterdir() if _DESCRIPTORS.is_dir() else ():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                found.add(int(entry.name))
    return found


_DESCRIPTORS = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")


def fork(body: Callable[[], int], keep: Collection[int]) -> int:
    """Fork a child that does nothing but ``body``, and whose exit code that returns.

    The parent has one thread, or the child might wait for a lock for ever.

    Args:
        keep: the sockets that the child may have; others are the parent's connections.

    Returns:
        the child's pid.
    """
    # Garbage with a socket in it would close a descriptor by number, which may be another one's in the child by then.
    gc.collect()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    _guarded(lambda: _begin(parent, body, keep))


def _begin(parent: int, body: Callable[[], int], keep: Collection[int]) -> int:
    signal.set_wakeup_fd(-1)
    for number in (*_FOR_THE_SUPERVISOR, LOOK_UP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    die_with_parent(parent)
    for descriptor in open_sockets() - set(keep):
        os.close(descriptor)
    return body()


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
