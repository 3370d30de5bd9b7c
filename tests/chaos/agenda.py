"""Doing things at their time, in one thread."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable

from tests.support.wait import pause


class Agenda:
    """Actions by time; an action may put others on the agenda."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have something done ``seconds`` from now."""
        heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), action))

    def run(self) -> None:
        """Do what is due, in order, until nothing is left to do."""
        while self._heap:
            due, _, action = self._heap[0]
            left = due - time.monotonic()
            if left > 0:
                pause(min(left, 0.05))
                continue
            heapq.heappop(self._heap)
            action()
