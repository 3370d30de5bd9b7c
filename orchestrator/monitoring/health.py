"""Checks with a time limit each, and the verdict over all of them.

A check is a function that returns a short remark, or raises: :class:`Degraded` for
"works, but somebody should look", anything else for "cannot be reached". What a check
raises never reaches a web client: it may hold an address or a password.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from django.db import connections


class Verdict(enum.IntEnum):
    """How something is; the value is the exit code of ``manage.py queue_health``."""

    HEALTHY = 0
    DEGRADED = 1
    UNREACHABLE = 2

    @property
    def word(self) -> str:
        """The verdict as people and JSON say it."""
        return self.name.lower()


class Degraded(Exception):
    """Raise in a check: it works, but somebody should look; the text says at what."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question with a time limit.

    ``timeout`` is in seconds. A check that is not ``critical`` can make the whole
    degraded, never unreachable.
    """

    name: str
    run: Callable[[float], str]
    timeout: float = 2.0
    critical: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What a check found; ``remark`` is for operators, not for the public."""

    name: str
    verdict: Verdict
    remark: str
    seconds: float
    critical: bool = True

    @property
    def effect(self) -> Verdict:
        """What this result does to the whole."""
        return self.verdict if self.critical else min(self.verdict, Verdict.DEGRADED)

    def as_json(self) -> dict[str, Any]:
        """Return the full form, for operators."""
        return {
            "name": self.name,
            "status": self.verdict.word,
            "remark": self.remark,
            "seconds": round(self.seconds, 3),
        }


_under_way: dict[Callable[[float], str], Future[tuple[Verdict, str]]] = {}
_lock = threading.Lock()


def run(checks: Sequence[Check]) -> list[Result]:
    """Run checks side by side, each at most as long as it may take.

    A check that hangs is left to its thread and reported; while it hangs, further calls
    wait for that same run instead of starting another, so probes cannot pile up.
    """
    started = time.monotonic()
    futures = [(check, _start(check)) for check in checks]
    return [_collect(check, future, started) for check, future in futures]


def verdict(results: Sequence[Result]) -> Verdict:
    """Return the worst effect of the results."""
    return max((result.effect for result in results), default=Verdict.HEALTHY)


def _start(check: Check) -> Future[tuple[Verdict, str]]:
    with _lock:
        under_way = _under_way.get(check.run)
        if under_way is not None and not under_way.done():
            return under_way
        future: Future[tuple[Verdict, str]] = Future()
        _under_way[check.run] = future
    # A daemon, because a hanging check must not keep the process from ending.
    threading.Thread(target=_ask, args=(check, future), name=f"check-{check.name}", daemon=True).start()
    return future


def _ask(check: Check, future: Future[tuple[Verdict, str]]) -> None:
    try:
        future.set_result((Verdict.HEALTHY, check.run(check.timeout)))
    except Degraded as finding:
        future.set_result((Verdict.DEGRADED, str(finding)))
    except Exception as error:
        future.set_result((Verdict.UNREACHABLE, f"{type(error).__name__}: {error}"))
    finally:
        # Only those of this thread, which ends here.
        connections.close_all()
        with _lock:
            if _under_way.get(check.run) is future:
                del _under_way[check.run]


def _collect(check: Check, future: Future[tuple[Verdict, str]], started: float) -> Result:
    try:
        found, remark = future.result(timeout=max(0.0, started + check.timeout - time.monotonic()))
    except FutureTimeout:
        found, remark = Verdict.UNREACHABLE, f"no answer within {check.timeout:g} s"
    return Result(check.name, found, remark, time.monotonic() - started, check.critical)
