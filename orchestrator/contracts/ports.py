"""What the engine needs from the outside world, as protocols.

The composition root wires an implementation by dotted path, so no layer imports
a database model or a Redis client that it does not own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from orchestrator.contracts.message import Letter, Parcel, Publication
from orchestrator.contracts.outcome import Outcome
from orchestrator.contracts.progress import Record


@runtime_checkable
class Letterbox(Protocol):
    """Where dead letters are safe before their message is acknowledged."""

    def bury(self, letter: Letter) -> None:
        """Store a letter durably.

        Raises:
            LetterboxUnavailable: it is not stored; the caller must keep the message.
        """


class AttemptLog(Protocol):
    """Where it is noted how attempts end."""

    def note(self, letter: Letter, outcome: Outcome, started_at: float | None) -> None:
        """Note an attempt; ``letter`` is what is known of it, redacted. Never raises for a store that is away."""


class ProgressLog(Protocol):
    """Where it is told how far tasks are."""

    def tell(self, record: Record, place: str | None) -> None:
        """Show a state, when the open transaction of ``place`` commits if that is given. Never raises for a store."""


class LetterSource(Protocol):
    """Where the relay takes letters from, at least once each."""

    def take(self, limit: int, wait: float) -> Sequence[tuple[str, bytes]]:
        """Return up to ``limit`` receipts and raw letters, waiting up to ``wait`` seconds."""

    def settle(self, receipts: Sequence[str]) -> None:
        """Forget letters that are safe elsewhere."""

    def waiting(self) -> int:
        """Return how many letters lie here."""


class Dispatch(Protocol):
    """What a policy may ask about a publication."""

    def place(self, publication: Publication) -> str | None:
        """Return the database that will keep it until it is sent, None if it is sent at once."""

    def of_the_worker(self, publication: Publication) -> bool:
        """Whether a worker publishes it for itself: a retry, a successor, a callback, a chord's body."""

    def duplicate(self, publication: Publication, task_id: str) -> Any:
        """Return the result object of a call that was not sent, because ``task_id`` is the run already."""


#: A stamp that tasks bear: the header that it stands in, and its value.
Stamp = tuple[str, Any]


class Revoked(Protocol):
    """Tasks that were called off: by their ids, or by stamps that they bear."""

    def add(self, ids: Iterable[str], stamps: Iterable[Stamp]) -> None:
        """Keep them, for as long as messages may wait.

        Raises:
            StoreUnavailable: they are not kept.
        """

    def since(self, version: str) -> tuple[str, list[str], list[Stamp]]:
        """Return the present version, and all ids and stamps if it is another than ``version``.

        Raises:
            StoreUnavailable: the store cannot be asked.
        """


class Partings(Protocol):
    """What runs give back once their bodies have ended, with nobody waiting for the answer."""

    @property
    def taking(self) -> bool:
        """Whether a task that runs in this process may leave something."""

    @property
    def urgent(self) -> bool:
        """Whether something waits."""

    def flush(self) -> bool:
        """Give back what waits; False if something vital could not be."""


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

    def keep(self, parcel: Parcel, place: str) -> str | None:
        """Store a message in the open transaction of ``place``; it is sent when that commits.

        Returns:
            the task id of a message that lies there already and makes this one a duplicate; this one is not stored.
        """

    def keep_many(self, parcels: Sequence[Parcel], place: str) -> None:
        """Store messages as :meth:`keep` does, all of them at once."""

    def rescue(self, parcel: Parcel, error: BaseException) -> None:
        """Store a message that the broker did not take; a relay sends it."""


class EndedRows(Protocol):
    """Where it is noted which rows of the outbox belong to messages that are settled, so that relays forget them."""

    def note(self, row: str) -> None:
        """Note a row by its name. Never raises for a store that is away."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Ownership of a key for a while.

    ``fence`` grows with every new owner of any key, for ever: whoever checks it refuses
    an owner that lost its lease without noticing.
    """

    key: str
    owner: str
    fence: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a key: its lease, what the owner noted, and the seconds left."""

    lease: Lease
    note: str
    seconds: float


class Leases(Protocol):
    """One owner a key at any time, once for all processes."""

    def acquire(self, key: str, owner: str, seconds: float, note: str = "") -> Lease | None:
        """Take a free key, or extend it for the owner that has it; None if another holds it."""

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Let a lease last ``seconds`` from now; False if its owner has lost it."""

    def release(self, key: str, owner: str) -> bool:
        """Give a key back; False if this owner does not hold it."""

    def holder(self, key: str) -> Holder | None:
        """Return who holds a key."""

    def free(self, key: str) -> bool:
        """Take a key from whoever holds it."""

    def keep(self, lease: Lease, seconds: float) -> AbstractContextManager[None]:
        """Renew a lease while a block runs."""
