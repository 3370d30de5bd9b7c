"""No process of a swarm outlives the one that it depends on."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    Linux only. Elsewhere the end of the parent shows as the end of a pipe, which a busy child sees late.

    Args:
        parent: the parent's pid; if it has ended already, this process ends now.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def stopped(pid: int) -> bool:
    """Whether a process has come to a halt after SIGSTOP; True where that cannot be told."""
    try:
        # The name, in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] in b"TtZX"
    except FileNotFoundError:
        return True
