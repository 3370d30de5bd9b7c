"""A message that left the outbox more than once starts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Defer, Skip
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import Leases

#: Seconds that the first copy is remembered: its lease is never given back. Between two copies lie seconds,
#: or an outage of the database that kept the first one's sender from noting it.
REMEMBERED = 24 * 3600.0
#: Seconds until a message is looked at again whose lease could not be asked for.
LATER = 2.0


class SendOnce(Policy):
    """Lets one copy of a message from the outbox start: the first nonce under its row's name.

    A sender that died after sending leaves its row, so a relay sends it again with
    another nonce. Redeliveries and retries of a copy carry its nonce and pass.
    *Fails: closed, but waiting. If the leases cannot be reached, the message is put
    back for a moment: it is ordinary work, and nobody should have to redrive it.*
    """

    def __init__(self, leases: Leases) -> None:
        self.leases = leases

    @classmethod
    def build(cls, parts: Parts) -> SendOnce:
        """Take the leases."""
        return cls(parts.leases)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only messages that came out of the outbox."""
        return "outbox" in header

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body if this copy holds its row's lease.

        Raises:
            Skip: another copy was first.
            Defer: the leases cannot be reached.
        """
        mark = attempt.header["outbox"]
        try:
            lease = self.leases.acquire(f"outbox:{mark['row']}", mark["nonce"], REMEMBERED)
        except StoreUnavailable as error:
            raise Defer(LATER) from error
        if lease is None:
            raise Skip(f"another copy of row {mark['row']} of the outbox was first")
        return proceed(attempt)
