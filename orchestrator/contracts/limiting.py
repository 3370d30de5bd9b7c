"""What a store of limits is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Charge:
    """One call's claim on one limit.

    ``spec`` is how stores read a limit: ``"kind count period burst name"``; kind ``s`` (sliding window), ``g``
    (GCRA) or ``c`` (slots), the period in microseconds.
    """

    id: str
    spec: str
    units: int = 1

    @property
    def slot(self) -> bool:
        """Whether it is held while the task runs."""
        return self.spec.startswith("c ")


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks. ``owner`` names this attempt, ``task_id`` its message; empty for what cannot park."""

    owner: str
    task_id: str = ""
    priority: int = 0
    #: Seconds that it can wait where it is for a turn that is near.
    patience: float = 0.0


@dataclass(frozen=True, slots=True)
class Granted:
    """Every limit lets the call through, in ``wait`` seconds. ``fence`` is 0 without a slot."""

    wait: float
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Limited:
    """A limit does not let the call through; nothing was taken from any. ``seconds`` is the least it will take."""

    charge: Charge
    seconds: float
    #: Where the message stood in line before it was released; empty for a newcomer.
    place: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message on its way into a line: the limit it waits for, and where it stands."""

    id: str
    spec: str
    units: int
    place: str
    priority: int
    task_id: str


class LimitStore(Protocol):
    """Counts for all processes."""

    def acquire(self, asking: Asking, charges: Sequence[Charge], lease: float) -> Granted | Limited:
        """Take all charges or none, in one round trip; an owner that asks again keeps its slots."""

    def release(self, owner: str, slots: Sequence[str], *, soon: bool = False) -> None:
        """Give slots back, by the ids of their limits; ``soon``: with the next call."""

    def keep(self, owner: str, slots: Sequence[str], fence: int, seconds: float) -> AbstractContextManager[None]:
        """Renew slots while a block runs."""

    def hold(self, ids: Sequence[str], seconds: float) -> None:
        """Grant nothing under these limits for a while."""
