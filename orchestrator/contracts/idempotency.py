"""One intended effect, named by a key: how it is declared, and what its record says."""

from __future__ import annotations

import hashlib
import inspect
import json
import string
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.ports import Lease

#: Keyword of ``apply_async`` and field of our header: a key given for one call.
KEY = "idempotency_key"
#: Characters of a key: as many as payment providers take.
LONGEST_KEY = 255
#: Seconds that a record is kept if nobody says otherwise.
DAY = 24 * 3600.0
#: What a key may be made of: values that read the same before and after the wire.
PLAIN = (str, int, float, Decimal, UUID, date, datetime, time)


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
        if callable(self.key):
            return
        if not isinstance(self.key, str) or not self.key.strip():
            raise InvalidOption(f'Idempotent(key={self.key!r}): give a template, such as "payment-{{order_id}}".')
        if not self.names:
            raise InvalidOption(
                f"Idempotent(key={self.key!r}) names no argument, so all calls would count as one. "
                'Name what tells them apart, as in key="payment-{order_id}".'
            )

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
        if not isinstance(self.key, str):
            return []
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(self.key) if field is not None]
        except ValueError as error:
            raise InvalidOption(f"Idempotent(key={self.key!r}) does not parse: {error}.") from error
        names = []
        for field in fields:
            name = field.partition("[")[0]
            if not name.isidentifier():
                raise InvalidOption(
                    f"Idempotent(key={self.key!r}): {{{field}}} must name an argument, "
                    "as in {order_id}, or an item of one, as in {order[id]}."
                )
            names.append(name)
        return names

    def check(self, task: str, parameters: Iterable[inspect.Parameter], sensitive: Iterable[str] = ()) -> None:
        """Refuse a template that a task's signature cannot fill, or that would show what is secret.

        Raises:
            UnknownOption: it names an argument that the task does not have.
            InvalidOption: it names a sensitive one.
        """
        parameters = list(parameters)
        known = [p.name for p in parameters]
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for name in self.names:
            if name in sensitive:
                raise InvalidOption(
                    f"Task {task!r}: the idempotency key {self.key!r} names {name!r}, which is sensitive, and keys are "
                    "shown to people. Name another argument, or give a callable that returns a digest."
                )
            if name not in known and not takes_any:
                raise UnknownOption.among(name, known, f"the idempotency key {self.key!r} of task {task!r}")

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
        try:
            return checked_key(task, _Plain(task, self.key).vformat(self.key, (), arguments))
        except (LookupError, TypeError) as error:
            raise InvalidOption(
                f"Task {task!r}: the idempotency key {self.key!r} cannot be filled ({type(error).__name__}: {error})."
            ) from error


#: What a call with a key of its own gets where the task declares nothing.
BY_CALL = Idempotent(key=lambda **_: "", ttl=DAY)


class _Plain(string.Formatter):
    """Fills a template with plain values only."""

    def __init__(self, task: str, template: str) -> None:
        self._where = f"Task {task!r}: the idempotency key {template!r}"

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        if not isinstance(value, PLAIN) or value == "":
            raise InvalidOption(
                f"{self._where} got {field_name}={value!r}, which names nothing. "
                "Give text, a number, a date or a UUID that is not empty, or use key=<callable>."
            )
        return value, first


def checked_key(task: str, key: Any) -> str:
    """Return a key.

    Raises:
        InvalidOption: it is no text, empty, too long, or has characters that nobody can see.
    """
    if not isinstance(key, str) or not key.strip():
        raise InvalidOption(
            f"Task {task!r}: {key!r} is no idempotency key. Give a text that is not empty and names the effect, "
            'such as "payment-1042"; leave idempotency_key out if there is none.'
        )
    if len(key) > LONGEST_KEY or not key.isprintable():
        raise InvalidOption(
            f"Task {task!r}: an idempotency key has at most {LONGEST_KEY} printable characters, this one has "
            f"{len(key)}: {key[:40]!r}. Use ids instead of contents, or a digest."
        )
    return key


def fingerprint(arguments: Mapping[str, Any]) -> str:
    """Return what tells calls with other arguments apart; reveals none of them."""
    text = json.dumps(arguments, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Effect:
    """One call's intended effect."""

    task: str
    key: str
    #: Of the arguments, see :func:`fingerprint`.
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

    def give_up(self, effect: Effect, owner: str) -> None:
        """Give the lease back without a record."""

    def keep(self, lease: Lease, seconds: float) -> AbstractContextManager[None]:
        """Renew a lease while a block runs."""


class TransactionalRecords(Protocol):
    """Records that commit together with what the task itself writes."""

    def run(self, effect: Effect, fence: int, body: Callable[[], Any]) -> tuple[bool, Completed]:
        """Run ``body`` and record its value in one transaction, unless a record is there.

        Returns:
            whether the body ran and its writes are committed, and what is recorded.
        """
