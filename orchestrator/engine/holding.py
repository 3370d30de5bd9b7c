"""Messages whose letter could not be stored wait here, unacknowledged, for another try.

Returning them to their queue instead would run their bodies again and again for as
long as the letterbox is away. A held message counts against the worker's prefetch,
so a worker that cannot bury takes nothing new before long. If the worker dies, the
broker delivers its messages again.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

#: Seconds between two tries.
EVERY = 1.0

_held: list[tuple[Callable[[], object], Any]] = []
_lock = Lock()


def hold(again: Callable[[], object], message: Any) -> None:
    """Call ``again`` at the next try; it holds itself and its message once more if it must."""
    with _lock:
        _held.append((again, message))


def retry() -> None:
    """Try everything that is held, in order, once."""
    with _lock:
        due, _held[:] = list(_held), []
    for again, _ in due:
        again()


def count() -> int:
    """Return how many messages wait."""
    return len(_held)


def messages() -> list[Any]:
    """Return the messages that wait."""
    with _lock:
        return [message for _, message in _held]
