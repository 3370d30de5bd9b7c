"""One zoo: every way in which a task can end, by name.

Tasks that declare time limits are in :mod:`tests.support.zoo_limits`, because pools
that cannot keep limits refuse to start with them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from celery.exceptions import Ignore, Reject

from orchestrator import Defer, PermanentError, Retries, task
from tests.support import far_side


class Unpicklable(Exception):
    """An error that cannot cross a pipe as it is."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.handle = sys.stdout

    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


@task(bind=True)
def end(self: Any, how: str, key: str = "", **details: Any) -> Any:
    """Run, note it, and end as told."""
    far_side.record(key or how, id=self.request.id, retries=self.request.retries)
    return ENDINGS[how](self, **details)


def _succeed(task: Any, value: Any = "done") -> Any:
    return value


def _fail(task: Any, text: str = "no such order") -> None:
    raise LookupError(text)


def _permanent(task: Any) -> None:
    raise PermanentError("the account is closed")


def _reject(task: Any, requeue: bool = False) -> None:
    raise Reject("malformed", requeue=requeue)


def _ignore(task: Any) -> None:
    raise Ignore()


def _unstorable(task: Any) -> Any:
    return object()


def _die(task: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _exit(task: Any) -> None:
    sys.exit(3)


def _no_memory(task: Any) -> None:
    raise MemoryError("out of memory, says the body")


def _unpicklable(task: Any) -> None:
    raise Unpicklable("holds a handle")


def _soft_limit(task: Any, seconds: float = 60.0) -> None:
    time.sleep(seconds)


def _hard_limit(task: Any, seconds: float = 60.0) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    time.sleep(seconds)


def _replace(task: Any, key: str = "replacement") -> Any:
    return task.replace(end.s("succeed", key=key))


def _celery_retry(task: Any, limit: int = 2) -> None:
    try:
        raise ConnectionError("refused")
    except ConnectionError as error:
        raise task.retry(exc=error, countdown=0.01, max_retries=limit) from error


def _defer_once(task: Any, times: int = 2) -> str:
    if len(far_side.effects(task.request.id)) < times:
        far_side.record(task.request.id)
        raise Defer(0.01)
    return f"after {times} deferrals"


ENDINGS = {
    "succeed": _succeed,
    "fail": _fail,
    "permanent": _permanent,
    "reject": _reject,
    "ignore": _ignore,
    "unstorable": _unstorable,
    "die": _die,
    "exit": _exit,
    "no_memory": _no_memory,
    "unpicklable": _unpicklable,
    "soft_limit": _soft_limit,
    "hard_limit": _hard_limit,
    "replace": _replace,
    "celery_retry": _celery_retry,
    "defer": _defer_once,
}


@task(bind=True, retries=Retries(on=(ConnectionError,), limit=2, base=0.01))
def flaky(self: Any, key: str, good_after: int = 99) -> str:
    """Fail with a ConnectionError until the given attempt."""
    far_side.record(key, id=self.request.id, retries=self.request.retries)
    if self.request.retries < good_after:
        raise ConnectionError(f"attempt {self.request.retries + 1} refused")
    return f"attempt {self.request.retries + 1}"


@task(retries=Retries(on=(Exception,), limit=2, base=0.01))
def flaky_but_permanent(key: str) -> None:
    """Raise a permanent error although every error would be retried."""
    far_side.record(key)
    raise PermanentError("retrying is useless")


@task
async def coroutine(key: str, text: str = "awaited") -> str:
    """Really await something."""
    await asyncio.sleep(0)
    far_side.record(key)
    return text


@task(sensitive=("card", "person"), bind=True, retries=Retries(on=(ConnectionError,), limit=1, base=0.01))
def secretive(self: Any, order: int, card: str, *, person: str = "", fail: bool = True) -> str:
    """Quote its sensitive arguments in an error."""
    far_side.record(f"secretive-{order}")
    if fail:
        try:
            raise KeyError(card)
        except KeyError as error:
            raise ConnectionError(f"card {card} of {person} refused for order {order}") from error
    return "ok"


@task(tracked=True)
def shown(seconds: float = 0.0) -> float:
    """Take some time; seen from the moment it is published."""
    time.sleep(seconds)
    return seconds


@task
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@task
def anything(*args: Any, **kwargs: Any) -> int:
    """Take whatever comes and count it."""
    return len(args) + len(kwargs)


@task
def collect(values: list[Any], key: str = "collect") -> list[Any]:
    """Note and return what a chord's header gave."""
    far_side.record(key, values=values)
    return values


@task(bind=True)
def until_mended(self: Any, key: str, value: Any = "mended") -> Any:
    """Fail until the test notes the effect ``mended:<key>``; then return the value."""
    far_side.record(key, id=self.request.id, retries=self.request.retries)
    if not far_side.effects(f"mended:{key}"):
        raise LookupError(f"{key} is not mended")
    return value


@task
def follow(value: Any, key: str) -> Any:
    """Note the value that came down a chain."""
    far_side.record(key, value=value)
    return value


@task(bury_expired=True)
def precious(key: str) -> None:
    """Be buried rather than dropped when expired."""
    far_side.record(key)


@task
def fleeting(key: str) -> None:
    """Be dropped when expired."""
    far_side.record(key)
