"""What a process owes the broker: acknowledgements that gather for a moment, and messages to return."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

from orchestrator.transport.companion import Companion
from orchestrator.transport.witness import Witness

logger = logging.getLogger("orchestrator.transport")

#: Acknowledgements that are sent at once when so many have gathered.
ACKS = 64
#: Seconds after which they are sent at the latest.
ACK_DELAY = 0.02
#: Seconds to wait for a companion that could not be made safe.
COMPANION_PAUSE = 0.2


class Dues:
    """Serials by what the broker has to be told about them. The caller locks."""

    def __init__(self, companion: Companion, witness: Witness) -> None:
        self.companion = companion
        self._witness = witness
        self._acks: list[int] = []
        #: How many of the first are known to be safe.
        self._covered = 0
        self._riding = False
        self._since = 0.0
        #: To be returned once the broker can be asked.
        self.returning: set[int] = set()

    def __bool__(self) -> bool:
        """Whether anything is owed."""
        return bool(self._acks or self.returning)

    @property
    def full(self) -> bool:
        """Whether many acknowledgements have gathered."""
        return len(self._acks) >= ACKS

    def serials(self) -> Collection[int]:
        """Return what is owed."""
        return self.returning.union(self._acks)

    def ack(self, serial: int) -> bool:
        """Note that a message is done with; True if it is the first that waits."""
        first = not self._acks
        if first:
            self._since = time.monotonic()
        self._acks.append(serial)
        if self.companion.safe:
            # Nothing has to be made safe before.
            self._witness.done(serial)
        return first

    def batch(self) -> tuple[list[int], Sequence[Any]]:
        """Return acknowledgements to send with a claim, none that are not safe, and calls to make before it.

        What those calls make safe is acknowledged by the next claim: only then it is known that they were carried out.
        """
        before = self.companion.before()
        self._riding = bool(before)
        if before:
            return self._witnessed(self._covered), before
        return self._witnessed() if self._acks and self._safe() else [], ()

    def settle(self) -> list[int]:
        """Make safe what belongs to acknowledgements, whether or not there are any; return those to send now."""
        return self._witnessed() if self._safe() else []

    def sent(self, acks: list[int], acknowledged: int) -> None:
        """Note that the broker was told of the first acknowledgements, and knew so many of them."""
        del self._acks[: len(acks)]
        if self._riding and self.companion.safe:
            self._covered = len(self._acks)
        else:
            self._covered = max(0, self._covered - len(acks))
        self._riding = False
        self._since = time.monotonic()
        if acknowledged < len(acks):
            logger.info("%d of %d acknowledgements had been taken before.", len(acks) - acknowledged, len(acks))

    def next_need(self) -> float:
        """Return the time on the monotonic clock at which something must be sent; infinity for never."""
        due = self.companion.due()
        return min(due, self._since + ACK_DELAY) if self._acks else due

    def due(self) -> bool:
        """Whether something has waited long enough."""
        return bool(self.returning) or time.monotonic() >= self.next_need()

    def clear(self) -> None:
        """Owe nothing any more: all of it is somebody else's."""
        self._acks.clear()
        self._covered = 0
        self.returning.clear()

    def _witnessed(self, most: int = ACKS) -> list[int]:
        acks = self._acks[: min(most, ACKS)]
        for serial in acks:
            self._witness.done(serial)
        return acks

    def _safe(self) -> bool:
        if self.companion.flush():
            return True
        # Asked again soon, but not at once.
        self._since = time.monotonic() + COMPANION_PAUSE
        return False
