"""What others ask about runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestrator.runs.outgoing import store


@dataclass(frozen=True, slots=True)
class Lag:
    """How many results wait in Redis to become rows, and the age of the one that is next."""

    waiting: int
    oldest_seconds: float


def lag() -> Lag:
    """Look into Redis.

    Raises:
        StoreUnavailable: it cannot be asked.
    """
    oldest = store().oldest()
    return Lag(store().size(), 0.0 if oldest is None else max(0.0, time.time() - oldest))
