"""The attempts stream: how attempts ended, on its way to the database."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Letter
from orchestrator.contracts.outcome import Outcome
from orchestrator.stores.redis.streams import RedisStream

logger = logging.getLogger("orchestrator.stores")

#: Stream key after the prefix; part of the format.
STREAM = "attempts"
#: Characters of a traceback that are kept: its end tells most, and the dead letter has all of it.
TRACEBACK = 8_000
#: Notes that are sent at once when so many have gathered.
FULL = 200
#: Notes that are kept while Redis is away; older ones are dropped.
MOST = 2_000
#: Seconds for which Redis is left alone after it did not answer.
REST = 1.0

_all: weakref.WeakSet[RedisAttemptLog] = weakref.WeakSet()


def attempts_stream(url: str, key_prefix: str, timeout: float) -> RedisStream:
    """Return the attempts stream of a Redis."""
    return RedisStream(url, f"{key_prefix}{STREAM}", timeout=timeout)


class RedisAttemptLog:
    """Where settling processes put notes (:class:`~orchestrator.contracts.ports.AttemptLog`).

    Notes gather where somebody calls :meth:`flush` in time, as a companion of the
    transport's ledger; else each is sent at once. Safe for threads and across forks.
    """

    def __init__(self, url: str, key_prefix: str, timeout: float, gathers: Callable[[], bool] = lambda: False) -> None:
        """Name the stream; nothing is connected yet.

        Args:
            gathers: whether somebody will flush.
        """
        #: They may wait, and nothing waits for them.
        self.urgent, self.safe = False, True
        self._stream = attempts_stream(url, key_prefix, timeout)
        self._gathers = gathers
        self._rest_until = 0.0
        self._empty()
        _all.add(self)

    def note(self, letter: Letter, outcome: Outcome, started_at: float | None) -> None:
        """Take a note; one that cannot be stored is dropped with a line in the log."""
        note = {
            "v": 1,
            "attempt_id": letter.attempt_id,
            "verdict": outcome.verdict.value,
            "reason": outcome.reason.value if outcome.reason else "",
            "task": letter.task,
            "task_id": letter.task_id,
            "retries": letter.retries,
            "error_type": letter.error_type,
            "error_message": letter.error_message,
            "traceback": letter.traceback[-TRACEBACK:],
            "worker": letter.worker,
            "queue": letter.queue,
            "published_at": letter.published_at,
            "started_at": started_at,
            "ended_at": letter.died_at,
        }
        with self._lock:
            self._notes.append(json.dumps(note).encode())
            if not self._gathers() or len(self._notes) >= FULL:
                self.flush()

    def due(self) -> float:
        """Never: the acknowledgement of the same message takes a note along."""
        return float("inf")

    def before(self) -> tuple[()]:
        """Nothing: notes are sent by themselves."""
        return ()

    def flush(self) -> bool:
        """Send what has gathered; no acknowledgement waits for it."""
        with self._lock:
            if not self._notes or time.monotonic() < self._rest_until:
                return True
            try:
                self._stream.append(*self._notes)
            except StoreUnavailable as error:
                self._rest_until = time.monotonic() + REST
                dropped = len(self._notes) - MOST
                if dropped > 0:
                    del self._notes[:dropped]
                    logger.warning("%d attempts will be missing from the history: %s", dropped, error)
            else:
                self._notes.clear()
            return True

    def _empty(self) -> None:
        self._lock = threading.RLock()
        self._notes: list[bytes] = []
        self._rest_until = 0.0


def _forget() -> None:
    """A fork notes nothing for its parent."""
    for log in _all:
        log._empty()


os.register_at_fork(after_in_child=_forget)
