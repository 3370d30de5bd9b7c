"""What a run gives back once its body has ended well: a key, a slot, a lock, with nobody waiting for the answer.

It costs no round trip of its own. It is made with the next call to the same Redis; it
is made before another body begins, before this process waits for messages, and before
the acknowledgement of its own message, which waits for what is vital.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import redis

from orchestrator.contracts import events
from orchestrator.stores.redis import calls
from orchestrator.stores.redis.calls import Left
from orchestrator.stores.redis.scripts import Script

logger = logging.getLogger("orchestrator.stores")

#: Seconds after which it is made at the latest, where nothing takes it along earlier.
GATHER = 0.02
#: Seconds for which Redis is left alone after it did not answer.
REST = 0.2
#: How a server says that it will never do what it was asked for.
_NEVER = "WRONGTYPE"


def leave(
    url: str, timeout: float, script: Script, keys: list[str], args: list[object], *, lost: Any = None, vital: bool
) -> None:
    """Leave a call to be made soon. It may be made twice.

    Args:
        lost: event for the answer 0: somebody else was first.
        vital: whether acknowledgements have to wait for it. What is not frees itself after a while.
    """
    calls.leave(Left(url, timeout, script, keys, args, partial(_heard, vital, lost), vital))


class Partings:
    """Sees to it that what was left is made in time. A companion of the transport's ledger."""

    def __init__(self, attended: Callable[[], bool], broker: str = "") -> None:
        """Begin.

        Args:
            attended: whether this process acknowledges messages, and so asks for :meth:`flush` in time.
            broker: URL of the Redis that messages are claimed from, where its claims can take calls along.
        """
        self._attended = attended
        self._broker = broker
        self._rest_until = 0.0

    @property
    def taking(self) -> bool:
        """Whether a task that runs here may leave something: in the thread that claims and acknowledges."""
        return self._attended() and threading.current_thread() is threading.main_thread()

    @property
    def urgent(self) -> bool:
        """Whether something waits that must not wait while this process does something else."""
        return bool(calls.left())

    @property
    def safe(self) -> bool:
        """Whether nothing vital waits."""
        return not any(one.vital for one in calls.left())

    def due(self) -> float:
        """Return when it has to be made at the latest, on the monotonic clock."""
        waiting = calls.left()
        return max(waiting[0].since + GATHER, self._rest_until) if waiting else float("inf")

    def before(self) -> Sequence[Left]:
        """Return what was left, if a claim can take all of it along."""
        waiting = calls.left()
        return waiting if all(one.url == self._broker for one in waiting) else ()

    def flush(self) -> bool:
        """Make what was left; False if something vital could not be made."""
        if time.monotonic() >= self._rest_until:
            try:
                calls.send_left()
                rests = not self.safe
            except redis.RedisError as error:
                rests = True
                logger.warning("%d calls wait until Redis answers: %s", len(calls.left()), error)
            if rests:
                self._rest_until = time.monotonic() + REST
        return self.safe


def _heard(vital: bool, lost: Any, answer: Any) -> bool:
    """Look at the answer to what was left; False to ask again."""
    if isinstance(answer, redis.ResponseError):
        if vital and _NEVER not in str(answer):
            logger.warning("Redis refuses for now to record the end of a task: %s", answer)
            return False
        logger.error("Redis refused what a task left, which frees itself: %s", answer)
    elif lost is not None and not answer:
        events.emit(lost)
        logger.error("Task %s[%s] lost its key while it ran.", lost.task, lost.task_id)
    return True
