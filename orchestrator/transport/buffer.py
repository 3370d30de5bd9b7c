"""Claimed messages in this process: waiting for a slot, then handed out."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.transport.inflight import Claimed

#: Seconds that claimed messages may wait for their turn while nothing moves.
STUCK = 0.15


@dataclass(slots=True)
class HandedOut:
    """A message that the worker has got. ``since`` is on the monotonic clock; None measures nothing."""

    serial: int
    name: str = ""
    since: float | None = None


class Buffer:
    """Claimed messages of one channel that wait for a slot."""

    def __init__(self) -> None:
        self.messages: deque[Claimed] = deque()
        self.moved_at = 0.0

    def __len__(self) -> int:
        return len(self.messages)

    def put(self, claimed: Sequence[Claimed]) -> None:
        """Add messages at the end."""
        if claimed:
            self.messages.extend(claimed)
            self.moved_at = time.monotonic()

    def stuck(self) -> bool:
        """Whether messages wait and nothing has moved for a while."""
        return bool(self.messages) and time.monotonic() >= self.moved_at + STUCK


def attempt_of(owner: str, tag: str | int) -> str:
    """Return what names the attempt at a delivery, for whoever knows its owner and tag: also for an owner's heir."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{owner}:{tag}"))


def tag_of(claimed: Claimed) -> str:
    """Return the delivery tag of a claim. Unlike the producer's, it differs from delivery to delivery."""
    return str(claimed.serial)
