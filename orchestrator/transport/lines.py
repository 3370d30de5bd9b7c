"""The lines of a process: each used by one thread at a time, kept for the next, as many as allowed."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from kombu.exceptions import OperationalError

from orchestrator.transport.line import Failed, Line


class Lines:
    """The lines of one broker in this process; a fork has none of its parent's."""

    def __init__(self, connect: Callable[[], Any], limit: int | None, patience: float) -> None:
        """Say where to.

        Args:
            connect: makes a kombu connection.
            limit: how many at once; None for any number.
            patience: seconds to wait for one to become free.
        """
        self._connect = connect
        self._limit = limit
        self._patience = patience
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._idle: deque[Line] = deque()
        self._slots = threading.BoundedSemaphore(self._limit) if self._limit else None

    @contextmanager
    def line(self) -> Iterator[Line]:
        """Lend a line.

        It is kept afterwards, unless an error passes through here that leaves its state unknown.

        Raises:
            Failed: none became free in time, or the broker cannot be reached; nothing was sent.
            Unfit: the broker is not one of ours.
        """
        slots = self._slots
        if slots is not None and not slots.acquire(timeout=self._patience):
            text = f"All {self._limit} connections for publishing were busy for {self._patience:g} s."
            raise Failed(text, maybe_sent=False)
        try:
            line = self._connected()
            try:
                yield line
            except Failed as failed:
                if failed.refused and not isinstance(failed.__cause__, redis.ReadOnlyError):
                    self._idle.append(line)
                else:
                    line.close()
                raise
            except BaseException:
                line.close()
                raise
            self._idle.append(line)
        finally:
            if slots is not None:
                slots.release()

    def _connected(self) -> Line:
        try:
            try:
                line = self._idle.pop()
            except IndexError:
                return Line(self._connect())
            line.ready()
            return line
        except (redis.RedisError, OSError, OperationalError) as error:
            raise Failed(str(error), maybe_sent=False) from error

    def close(self) -> None:
        """Hang up what is idle."""
        while self._idle:
            self._idle.pop().close()


_all: weakref.WeakSet[Lines] = weakref.WeakSet()


def _forget() -> None:
    for lines in list(_all):
        lines._begin()


os.register_at_fork(after_in_child=_forget)
