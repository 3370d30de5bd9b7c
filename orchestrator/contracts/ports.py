"""What the engine needs from the outside world, as protocols.

The composition root wires an implementation by dotted path, so no layer imports
a database model or a Redis client that it does not own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from orchestrator.contracts.message import Letter, Parcel


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


class Outbox(Protocol):
    """Where messages lie, in the caller's database transaction, until they are sent."""

    #: Whether a message that the broker did not take is kept here instead of failing the caller.
    fallback: bool

    def place(self, choice: bool | str | None) -> str | None:
        """Return the alias of the database that a message published now has to be kept in.

        Args:
            choice: what the caller asked for, see :attr:`Publication.outbox`.

        Returns:
            None if it is to be sent at once.
        Raises:
            InvalidOption: the choice names no database of the outbox.
        """

    def keep(self, parcel: Parcel, place: str) -> None:
        """Store a message in the open transaction of ``place``; it is sent when that commits."""

    def rescue(self, parcel: Parcel, error: BaseException) -> None:
        """Store a message that the broker did not take; a relay sends it."""


class Claims(Protocol):
    """First writer wins, once for all processes."""

    def claim(self, key: str, owner: str, ttl: float) -> bool:
        """Return whether ``owner`` holds ``key``, taking it for ``ttl`` seconds if it is free."""
