"""A letter that was published more than once by its redrive runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Skip
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import Leases

#: Seconds that the first copy is remembered: its lease is never given back.
REMEMBERED = 7 * 24 * 3600.0


class RedriveOnce(Policy):
    """Lets one copy of a redriven message start: the first nonce under its letter's id.

    A redrive that crashed half-way is published again with another nonce, because
    nobody can tell whether the first copy was sent. Redeliveries and retries of a
    copy carry its nonce and pass. *Fails: closed. If the leases cannot be reached,
    their error fails the attempt and the message returns to the inbox.*
    """

    def __init__(self, leases: Leases) -> None:
        self.leases = leases

    @classmethod
    def build(cls, parts: Parts) -> RedriveOnce:
        """Take the leases."""
        return cls(parts.leases)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only messages that a redrive published."""
        return "redrive" in header

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body if this copy holds its letter's lease.

        Raises:
            Skip: another copy was first.
            StoreUnavailable: the leases cannot be reached.
        """
        mark = attempt.header["redrive"]
        if self.leases.acquire(f"redrive:{mark['letter']}", mark["nonce"], REMEMBERED) is None:
            raise Skip(f"another copy of redriven letter {mark['letter']} was first")
        return proceed(attempt)
