"""Tasks that tell when they start and when they end, for tests that kill what is around them."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from orchestrator import Idempotent, fencing, task
from tests.support import far_side

#: What a worker needs to know them: ``env=labour.ENV``.
ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.labour"}


@task(bind=True, ignore_result=True)
def work(self: Any, key: str, seconds: float = 0.0) -> None:
    """Note the start, take some time, note the end."""
    far_side.record(f"{key}:start", pid=os.getpid())
    time.sleep(seconds)
    far_side.record(f"{key}:end", pid=os.getpid())


@task(ignore_result=True, idempotency=Idempotent(key="{key}"))
def guarded(key: str, seconds: float) -> None:
    """Do as ``work`` does, under a key, and tell the far side the number of its lease each time."""
    far_side.record(f"{key}:start", pid=os.getpid(), fence=fencing())
    time.sleep(seconds)
    far_side.record(f"{key}:end", pid=os.getpid(), fence=fencing())


@task(ignore_result=True)
def hold_the_interpreter(key: str, seconds: float) -> None:
    """Run C code that lets no other thread of this process run, nor any signal handler of Python's."""
    far_side.record(f"{key}:start", pid=os.getpid())
    # PyDLL, unlike CDLL, keeps the lock of the interpreter while it calls.
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    far_side.record(f"{key}:end", pid=os.getpid())


@task(ignore_result=True)
def kill_own_process(key: str) -> None:
    """Die without a word; on a solo worker this takes the whole worker along."""
    far_side.record(key)
    os.kill(os.getpid(), signal.SIGKILL)


@task(ignore_result=True, acks_late=False)
def kill_own_process_early(key: str) -> None:
    """Die of a message that was acknowledged when it started."""
    kill_own_process.run(key)


@task(ignore_result=True, acks_late=False)
def work_early(key: str, seconds: float) -> None:
    """Take some time, with a message that was acknowledged when it started."""
    work.run(key, seconds)


def starts(key: str) -> int:
    """Return how often ``work`` started."""
    return len(far_side.effects(f"{key}:start"))


def ends(key: str) -> int:
    """Return how often ``work`` ran to its end."""
    return len(far_side.effects(f"{key}:end"))
