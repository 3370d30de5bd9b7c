"""Event catalogue: one frozen dataclass per event. Logs, metrics and alerts subscribe.

Every event is a row in ``docs/events.md``; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LetterBuried:
    """A dead letter is safe in the letterbox."""

    task: str
    task_id: str
    attempt_id: str
    reason: str
    worker: str


@dataclass(frozen=True, slots=True)
class LetterRefused:
    """The letterbox was unavailable; the message stays unacknowledged and is tried again."""

    task: str
    task_id: str
    attempt_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LetterFiled:
    """The relay wrote a dead letter into the database."""

    letter_id: str
    task: str
    reason: str


@dataclass(frozen=True, slots=True)
class LetterRedriven:
    """A dead letter was published again."""

    letter_id: str
    task: str
    new_task_id: str


@dataclass(frozen=True, slots=True)
class LetterDiscarded:
    """A dead letter was closed for good."""

    letter_id: str
    task: str


@dataclass(frozen=True, slots=True)
class RunReplayed:
    """An idempotent task's recorded result was returned instead of running it again."""

    task: str
    task_id: str
    key: str


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """A task ended whose lease somebody else had taken meanwhile; both may have taken effect."""

    task: str
    task_id: str
    key: str
    fence: int


@dataclass(frozen=True, slots=True)
class DuplicateDropped:
    """A call was not sent, because another message is the run of its key already."""

    task: str
    task_id: str
    key: str
    duplicate_of: str


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """A circuit breaker opened: its far side failed too often."""

    name: str


@dataclass(frozen=True, slots=True)
class BreakerClosed:
    """A circuit breaker closed: its probe succeeded."""

    name: str


Subscriber = Callable[[object], None]

_subscribers: dict[type, list[Subscriber]] = {}


def subscribe(kind: type, subscriber: Subscriber) -> None:
    """Call ``subscriber`` with every event of ``kind`` in this process, once however often asked."""
    known = _subscribers.setdefault(kind, [])
    if subscriber not in known:
        known.append(subscriber)


def emit(event: object) -> None:
    """Hand an event to its subscribers. A subscriber that raises is a bug and is not hidden."""
    for subscriber in _subscribers.get(type(event), ()):
        subscriber(event)
