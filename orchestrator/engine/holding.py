"""Messages whose letter could not be stored wait here, unacknowledged, for another try.

Returning them to their queue instead would run their bodies again and again for as
long as the letterbox is away. A held message counts against the worker's prefetch,
so a worker that cannot bury takes nothing new before long. If the worker dies, the
broker delivers its messages again.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

#: Seconds between two tries.
EVERY = 1.0

_held: list[Callable[[], object]] = []
_lock = Lock()


def hold(again: Callable[[], object]) -> None:
    """Call ``again`` at the next try; it holds itself once more if it must."""
    with _lock:
        _held.append(again)


def retry() -> None:
    """Try everything that is held, in order, once."""
    with _lock:
        due, _held[:] = list(_held), []
    for again in due:
        again()


def count() -> int:
    """Return how many messages wait."""
    return len(_held)
