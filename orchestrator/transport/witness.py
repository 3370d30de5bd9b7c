"""Who notes, outside of a process, what would be forgotten if it died."""

from __future__ import annotations

from typing import Protocol


class Witness(Protocol):
    """Told by a ledger; must be quick, and must not raise."""

    def begins(self, owner: str) -> None:
        """This process holds messages under a new name."""

    def done(self, serial: int) -> None:
        """A message is done with, and what belongs to that is safe; the broker is told soon. May come twice."""


class Nobody:
    """No witness: what this process forgets by dying is found out by its lease."""

    def begins(self, owner: str) -> None:
        """Forget it."""

    def done(self, serial: int) -> None:
        """Forget it."""
