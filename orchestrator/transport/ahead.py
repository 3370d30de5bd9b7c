"""Claims that are sent before there is anything to claim, behind the blocking read that waits for a wake-up.

The broker carries one out in the moment in which its consumer is woken, so a message costs
an idle consumer no second round trip. Between that moment and the one in which the answer
is read, the broker counts messages as this process's of which the process knows nothing;
nobody must take them for the leavings of a call that was lost, unless the answer is
overdue: then the loop is elsewhere, or a network forgot the connection, and others are free.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from orchestrator.stores.redis.direct import packed
from orchestrator.transport.buffer import Buffer
from orchestrator.transport.inflight import Call, InFlight, Turn, claim_script


class Books(Protocol):
    """What a claim needs of the ledger."""

    lock: threading.RLock
    inflight: InFlight
    ahead: set[Ahead]

    def reserve(self, want: int) -> int:
        """Set serials aside; return the last one before them."""

    def received(self, buffer: Buffer, turn: Turn) -> bool:
        """Put what a claim brought into a buffer; whether more waits than was taken."""

    def doubt(self, serials: Iterable[int]) -> None:
        """Return what may have been taken, when the broker answers again."""


#: Seconds that an answer may take after the end of the wait for a wake-up.
PATIENCE = 0.5


class Ahead:
    """A claim on its way, from :meth:`begin` to :meth:`heard` or :meth:`unheard`. One a channel."""

    def __init__(self, ledger: Books) -> None:
        self._ledger = ledger
        self._call: Call | None = None
        self._inflight: InFlight | None = None
        #: When its answer is overdue, on the monotonic clock; infinity once what it took was returned.
        self._due = 0.0

    def __bool__(self) -> bool:
        """Whether one is on its way."""
        return self._call is not None

    @property
    def serials(self) -> Sequence[int]:
        """What the broker may have given us without our knowing."""
        return self._call.serials if self._call is not None else ()

    def begin(self, queues: Sequence[str], want: int, *, strict: bool, within: float) -> bytes:
        """Return the command that is to be sent behind the blocking read; arguments as for a claim.

        Args:
            within: seconds after which the blocking read ends by itself.
        """
        ledger = self._ledger
        with ledger.lock:
            self._inflight = ledger.inflight
            call = self._call = self._inflight.call(queues, ledger.reserve(want), want, (), strict=strict)
            ledger.ahead.add(self)
            self._due = time.monotonic() + within + PATIENCE
        return packed("EVALSHA", claim_script.sha, len(call.keys), *call.keys, *call.args)

    def heard(self, buffer: Buffer, reply: Any) -> bool:
        """Put what it brought into a buffer; whether more waits than was taken.

        Raises:
            redis.RedisError: it brought what is not ours to work on, and the broker cannot be told.
        """
        ledger = self._ledger
        with ledger.lock:
            call, inflight, given_up = self._call, self._inflight, self._due == float("inf")
            self._end()
            if call is None or inflight is None:
                return True
            turn = call.turn(reply)
            if inflight is not ledger.inflight or given_up:
                # Our lease ran out meanwhile, and nobody renews the one under which these were taken; or the answer
                # was overdue, and they are somebody else's, but for those that were taken still later.
                inflight.give_back([claimed.serial for claimed in turn.claimed])
                return True
            return ledger.received(buffer, turn)

    def return_overdue(self) -> None:
        """Return what it may have taken if its answer is overdue; should it come yet, it brings nothing."""
        with self._ledger.lock:
            if self._call is not None and time.monotonic() > self._due:
                self._due = float("inf")
                self._ledger.doubt(self._call.serials)

    def unheard(self) -> None:
        """No answer will come: what it may have taken is returned, as soon as the broker can be asked."""
        ledger = self._ledger
        with ledger.lock:
            if self._call is not None and self._inflight is ledger.inflight:
                ledger.doubt(self._call.serials)
            self._end()

    def _end(self) -> None:
        self._call = self._inflight = None
        self._ledger.ahead.discard(self)
