"""Whether the broker came back with an older state than it had.

That happens after a power cut without ``appendfsync always``, with a file that was cut
off, with an old backup, with an empty disk, and at a failover to a replica that lagged.
The broker itself tells nobody. But all workers and relays look for dead owners at least
once a second, and those sweeps are numbered: a process that remembers a higher number
than the broker had when it came back knows that this sweep is lost, with whatever was
written after the last one that the broker has.

What is lost within the time between two sweeps is not noticed, nor what is lost while
every worker and relay dies as well. *Fails: open: nothing waits for this.*
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import redis

from orchestrator.transport.keys import Keys

#: Seconds for which the broker keeps the last setback.
KEPT = 30 * 24 * 3600


@dataclass(slots=True)
class Memory:
    """What one process knows of its last sweep of one broker: its number, its time (ms), and in which life it was."""

    number: int = 0
    at: int = 0
    life: bytes = b""


@dataclass(frozen=True, slots=True)
class Setback:
    """Writes that the broker lost; times in seconds since 1970 by its clock.

    Attributes:
        since: it has all that was written until then; 0 if it has nothing.
        known: it has nothing of what was written from some moment before that time on.
        noticed: when somebody saw it.
    """

    since: float
    known: float
    noticed: float

    @property
    def seconds(self) -> float:
        """How long that time is, at least; infinity if the broker came back with nothing."""
        return max(0.0, self.known - self.since) if self.since else float("inf")

    def __str__(self) -> str:
        """What an operator has to know."""
        lost = f"everything it had been told before {_clock(self.known)}"
        if self.since:
            lost = f"what it was told after {_clock(self.since)}, which is {self.seconds:.1f} s or more of its writes"
        return (
            f"it has lost {lost} (noticed at {_clock(self.noticed)}). Messages published then are gone, and tasks that "
            "ended then may run again. 'manage.py outbox reconcile' sends again what the outbox had sent"
        )

    def as_json(self) -> dict[str, float | None]:
        """Return the JSON form."""
        return {
            "since": self.since or None,
            "noticed": self.noticed,
            "seconds": round(self.seconds, 1) if self.since else None,
        }


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-5] + " UTC"


def last(client: redis.Redis, keys: Keys) -> Setback | None:
    """Return the last setback that is known; errors are redis-py's."""
    found: Any = client.hgetall(keys.setback)
    if not found:
        return None
    return Setback(*(int(found[name]) / 1000 for name in (b"since", b"known", b"noticed")))
