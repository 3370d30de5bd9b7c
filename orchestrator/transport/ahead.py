"""Claims that are sent before there is anything to claim, behind the blocking read that waits for a wake-up.

The broker carries one out in the moment in which its consumer is woken, so a message costs
an idle consumer no second round trip. Between that moment and the one in which the answer
is read, the broker counts messages as this process's of which the process knows nothing;
nobody must take them for the leavings of a call that was lost.
"""

from __future__ import annotations

import threading
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


class Ahead:
    """A claim on its way, from :meth:`begin` to :meth:`heard` or :meth:`unheard`. One a channel."""

    def __init__(self, ledger: Books) -> None:
        self._ledger = ledger
        self._call: Call | None = None
        self._inflight: InFlight | None = None

    def __bool__(self) -> bool:
        """Whether one is on its way."""
        return self._call is not None

    @property
    def serials(self) -> Sequence[int]:
        """What the broker may have given us without our knowing."""
        return self._call.serials if self._call is not None else ()

    def begin(self, queues: Sequence[str], want: int, *, strict: bool) -> bytes:
        """Return the command that is to be sent behind the blocking read; arguments as for a claim."""
        ledger = self._ledger
        with ledger.lock:
            self._inflight = ledger.inflight
            call = self._call = self._inflight.call(queues, ledger.reserve(want), want, (), strict=strict)
            ledger.ahead.add(self)
        return packed("EVALSHA", claim_script.sha, len(call.keys), *call.keys, *call.args)

    def heard(self, buffer: Buffer, reply: Any) -> bool:
        """Put what it brought into a buffer; whether more waits than was taken.

        Raises:
            redis.RedisError: it brought what is not ours to work on, and the broker cannot be told.
        """
        ledger = self._ledger
        with ledger.lock:
            call, inflight = self._call, self._inflight
            self._end()
            if call is None or inflight is None:
                return True
            turn = call.turn(reply)
            if inflight is not ledger.inflight:
                # Our lease ran out meanwhile. Nobody renews the one under which these were taken.
                inflight.give_back([claimed.serial for claimed in turn.claimed])
                return True
            return ledger.received(buffer, turn)

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
