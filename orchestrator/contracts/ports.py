"""What the engine needs from the outside world, as protocols.

The composition root wires an implementation by dotted path, so no layer imports
a database model or a Redis client that it does not own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from orchestrator.contracts.message import Letter


@runtime_checkable
class Letterbox(Protocol):
    """Where dead letters are safe before their message is acknowledged."""

    def bury(self, letter: Letter) -> None:
        """Store a letter durably.

        Raises:
            LetterboxUnavailable: it is not stored; the caller must keep the message.
        """


class LetterSource(Protocol):
    """Where the relay takes letters from, at least once each."""

    def take(self, limit: int, wait: float) -> Sequence[tuple[str, bytes]]:
        """Return up to ``limit`` receipts and raw letters, waiting up to ``wait`` seconds."""

    def settle(self, receipts: Sequence[str]) -> None:
        """Forget letters that are safe elsewhere."""

    def waiting(self) -> int:
        """Return how many letters lie here."""


class Claims(Protocol):
    """First writer wins, once for all processes."""

    def claim(self, key: str, owner: str, ttl: float) -> bool:
        """Return whether ``owner`` holds ``key``, taking it for ``ttl`` seconds if it is free."""
