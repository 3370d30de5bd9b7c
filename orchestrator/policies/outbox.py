"""A message that left the outbox more than once starts once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Defer, Skip
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import Claims

#: Seconds that the first copy's claim is remembered. Between two copies lie a grace or a lease, seconds each,
#: or an outage of the database that kept the first one's sender from noting it.
CLAIM_TTL = 24 * 3600.0
#: Seconds until a message is looked at again whose claim could not be asked for.
LATER = 2.0


class SendOnce(Policy):
    """Lets one copy of a message from the outbox start: the first nonce under its row's name.

    A sender that died after sending leaves its row, so a relay sends it again with
    another nonce. Redeliveries and retries of a copy carry its nonce and pass.
    *Fails: closed, but waiting. If the claims cannot be reached, the message is put
    back for a moment: it is ordinary work, and nobody should have to redrive it.*
    """

    def __init__(self, claims: Claims) -> None:
        self.claims = claims

    @classmethod
    def build(cls, parts: Parts) -> SendOnce:
        """Take the claims."""
        return cls(parts.claims)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only messages that came out of the outbox."""
        return "outbox" in header

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body if this copy holds the claim.

        Raises:
            Skip: another copy was first.
            Defer: the claims cannot be reached.
        """
        mark = attempt.header["outbox"]
        try:
            first = self.claims.claim(f"outbox:{mark['row']}", mark["nonce"], CLAIM_TTL)
        except StoreUnavailable as error:
            raise Defer(LATER) from error
        if not first:
            raise Skip(f"another copy of row {mark['row']} of the outbox was first")
        return proceed(attempt)
