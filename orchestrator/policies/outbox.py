"""A message that left the outbox more than once starts once, and its row is forgotten once it is settled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.message import Attempt
from orchestrator.contracts.outcome import Defer, Outcome, Skip, Verdict
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import EndedRows, Leases

#: Seconds that the first copy is remembered: its lease is never given back. Between two copies lie seconds,
#: or an outage of the database that kept the first one's sender from noting it.
REMEMBERED = 24 * 3600.0
#: Seconds until a message is looked at again whose lease could not be asked for.
LATER = 2.0


def lease_of(row: str) -> str:
    """Return the key whose owner is the nonce of the copy that started."""
    return f"outbox:{row}"


class SendOnce(Policy):
    """Lets one copy of a message from the outbox start: the first nonce under its row's name.

    A sender that died after sending leaves its row, so a relay sends it again with
    another nonce. Redeliveries and retries of a copy carry its nonce and pass.
    *Fails: closed, but waiting. If the leases cannot be reached, the message is put
    back for a moment: it is ordinary work, and nobody should have to redrive it.*
    """

    def __init__(self, leases: Leases, ended: EndedRows) -> None:
        self.leases = leases
        self.ended = ended

    @classmethod
    def build(cls, parts: Parts) -> SendOnce:
        """Take the leases, and where rows are noted."""
        return cls(parts.leases, parts.ended_rows)

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
            lease = self.leases.acquire(lease_of(mark["row"]), mark["nonce"], REMEMBERED)
        except StoreUnavailable as error:
            raise Defer(LATER) from error
        if lease is None:
            raise Skip(f"another copy of row {mark['row']} of the outbox was first")
        value = proceed(attempt)
        self._note(mark)
        return value

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Let the row of a message go that will not run again: its end is told by a letter, or was wanted."""
        mark = attempt.header.get("outbox")
        if not mark or not outcome.verdict.terminal:
            return
        if outcome.verdict is Verdict.REJECTED and outcome.reason is None:
            # Back to its queue.
            return
        if outcome.verdict is Verdict.SKIPPED and not self._first(mark):
            return
        self._note(mark)

    def _first(self, mark: Mapping[str, Any]) -> bool:
        """Whether this copy is the one that started: to skip another ends nothing."""
        try:
            holder = self.leases.holder(lease_of(mark["row"]))
        except StoreUnavailable:
            return False
        return holder is not None and holder.lease.owner == mark["nonce"]

    def _note(self, mark: Mapping[str, Any]) -> None:
        if mark.get("kept"):
            self.ended.note(mark["row"])
