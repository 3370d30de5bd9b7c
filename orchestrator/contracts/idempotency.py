"""One intended effect, named by a key: how it is declared, and what its record says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from orchestrator.contracts import keys
from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.ports import Lease

#: Keyword of ``apply_async`` and field of our header: a key given for one call.
KEY = "idempotency_key"
#: Seconds that a record is kept if nobody says otherwise.
DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotent:
    """Take effect once for each key; return the recorded result to whoever asks again.

    Args:
        key: template over the task's arguments, as in ``"payment-{order_id}"`` or
            ``"{order[id]}"``, or a callable that gets them and returns the key. Keys of
            different tasks never meet.
        ttl: seconds or timedelta for which the result is remembered after the run.
        transactional: commit the record in the database transaction of the task's own
            writes, which the body then runs in.

    Raises:
        InvalidOption: a value cannot work.
    """

    key: str | Callable[..., str]
    ttl: float | timedelta = DAY
    transactional: bool = False

    def __post_init__(self) -> None:
        ttl = self.ttl.total_seconds() if isinstance(self.ttl, timedelta) else self.ttl
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0.001 <= ttl < float("inf"):
            raise InvalidOption(f"Idempotent(ttl={self.ttl!r}): give seconds above 0, or a timedelta.")
        object.__setattr__(self, "ttl", float(ttl))
        if not isinstance(self.transactional, bool):
            raise InvalidOption(f"Idempotent(transactional={self.transactional!r}): give True or False.")
        if not callable(self.key):
            keys.check_template(self.key, f"Idempotent(key={self.key!r})", '"payment-{order_id}"')

    @property
    def seconds(self) -> float:
        """``ttl`` in seconds."""
        return float(self.ttl)  # type: ignore[arg-type]  # a timedelta became seconds above

    @property
    def names(self) -> list[str]:
        """The arguments that a template names; none for a callable.

        Raises:
            InvalidOption: the template does not parse, counts positions or reaches into attributes.
        """
        return keys.names_in(self.key, f"Idempotent(key={self.key!r})") if isinstance(self.key, str) else []

    def check(self, task: str, parameters: Iterable[inspect.Parameter], sensitive: Iterable[str] = ()) -> None:
        """Refuse a template that a task's signature cannot fill, or that would show what is secret.

        Raises:
            UnknownOption: it names an argument that the task does not have.
            InvalidOption: it names a sensitive one.
        """
        keys.check_names(self.names, f"the idempotency key {self.key!r}", task, parameters, sensitive)

    def key_for(self, task: str, arguments: Mapping[str, Any]) -> str:
        """Return the key of one call.

        Args:
            task: name for the message.
            arguments: by name, defaults filled in; a ``**`` parameter's members among them.

        Raises:
            InvalidOption: an argument that the key is made of cannot name anything.
        """
        if callable(self.key):
            return checked_key(task, self.key(**arguments))
        return checked_key(task, keys.filled(self.key, f"the idempotency key {self.key!r}", task, arguments))


#: What a call with a key of its own gets where the task declares nothing.
BY_CALL = Idempotent(key=lambda **_: "", ttl=DAY)


def checked_key(task: str, key: Any) -> str:
    """Return a key.

    Raises:
        InvalidOption: it is no text, empty, too long, or has characters that nobody can see.
    """
    return keys.checked(key, "an idempotency key", task, "leave idempotency_key out if there is none")


@dataclass(frozen=True, slots=True)
class Effect:
    """One call's intended effect."""

    task: str
    key: str
    #: Of the arguments, see :func:`orchestrator.contracts.keys.fingerprint`.
    fingerprint: str
    task_id: str
    #: Seconds that its record is kept.
    ttl: float

    @property
    def name(self) -> str:
        """The key, unique over all tasks."""
        return f"{self.task}:{self.key}"


@dataclass(frozen=True, slots=True)
class Began:
    """The effect is the caller's to bring about, under this lease."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else is at it, for ``seconds`` more unless they renew."""

    fingerprint: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Completed:
    """It took effect; ``value`` is what the task returned then."""

    fingerprint: str
    value: Any


class IdempotencyRecords(Protocol):
    """Who is at an effect, and what came of it."""

    def begin(self, effect: Effect, owner: str, seconds: float) -> Began | Held | Completed:
        """Look for the record and take the lease, in one step."""

    def complete(self, effect: Effect, lease: Lease, value: Any) -> bool:
        """Write the record and give the lease back; False if somebody else was first."""

    def complete_soon(self, effect: Effect, lease: Lease, value: Any) -> None:
        """Do that before the message of the effect is acknowledged; if somebody else was first, an event tells."""

    def give_up(self, effect: Effect, owner: str, *, soon: bool = False) -> None:
        """Give the lease back without a record; ``soon``: with the next call."""

    def keep(self, lease: Lease, seconds: float) -> AbstractContextManager[None]:
        """Renew a lease while a block runs."""


class TransactionalRecords(Protocol):
    """Records that commit together with what the task itself writes."""

    def run(self, effect: Effect, fence: int, body: Callable[[], Any]) -> tuple[bool, Completed]:
        """Run ``body`` and record its value in one transaction, unless a record is there.

        Returns:
            whether the body ran and its writes are committed, and what is recorded.
        """
