"""What happened to one message, in order, across its redrives."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from orchestrator.deadletters.models import DeadLetter, State


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a timeline. ``letter_id`` links to another letter, ``kind`` picks the colour."""

    at: datetime | None
    title: str
    text: str = ""
    kind: str = "note"
    letter_id: str = ""


def timeline(letter: DeadLetter) -> list[Event]:
    """Return the events of ``letter``, oldest first."""
    return [*_before(letter), *_attempts(letter), *_after(letter)]


def _before(letter: DeadLetter) -> list[Event]:
    events = []
    if letter.redrive_of:
        older = _newest_with(letter.redrive_of)
        events.append(
            Event(
                at=older.closed_at if older else None,
                title="Redriven from an earlier dead letter",
                text=f"Task id then: {letter.redrive_of}",
                kind="link",
                letter_id=str(older.pk) if older else "",
            )
        )
    if letter.published_at:
        events.append(Event(at=letter.published_at, title="Published", text=letter.queue and f"Queue {letter.queue}"))
    return events


def _attempts(letter: DeadLetter) -> list[Event]:
    events = [
        Event(
            at=_moment(entry.get("at")),
            title=f"Attempt {entry.get('n', number)} failed, retried",
            text=_joined(entry.get("error"), _on(entry.get("worker"))),
            kind="retry",
        )
        for number, entry in enumerate(letter.history, start=1)
    ]
    events.append(
        Event(
            at=letter.died_at,
            title=f"Attempt {letter.retries + 1}: {letter.get_reason_display()}",
            text=_joined(error_line(letter), _on(letter.worker)),
            kind="death",
        )
    )
    return events


def _after(letter: DeadLetter) -> list[Event]:
    who = f"By {letter.closed_by}" if letter.closed_by else ""
    if letter.state == State.DISCARDED:
        return [Event(at=letter.closed_at, title="Discarded", text=_joined(letter.note, who), kind="closed")]
    if not letter.redriven_as:
        return []
    edited = " with edited arguments" if letter.edits else ""
    title = "Being redriven" if letter.state == State.REDRIVING else "Redriven"
    text = _joined(f"New task id: {letter.redriven_as}", who)
    events = [Event(at=letter.closed_at or letter.claimed_at, title=title + edited, text=text, kind="closed")]
    newer = _newest_with(letter.redriven_as)
    if newer:
        events.append(
            Event(
                at=newer.died_at,
                title=f"Ended in the inbox again: {newer.get_reason_display()}",
                text=error_line(newer),
                kind="death",
                letter_id=str(newer.pk),
            )
        )
    return events


def error_line(letter: DeadLetter) -> str:
    """Return the error in one line."""
    return ": ".join(part for part in (letter.error_type, letter.error_message) if part)


def _newest_with(task_id: str) -> DeadLetter | None:
    return DeadLetter.objects.filter(task_id=task_id).first()


def _moment(value: Any) -> datetime | None:
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _on(worker: Any) -> str:
    return f"on {worker}" if worker else ""


def _joined(*parts: Any) -> str:
    return " · ".join(str(part) for part in parts if part)
