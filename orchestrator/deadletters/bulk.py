"""Verbs on every dead letter that matches a filter.

The letters are listed before the first is touched, oldest first, so one that fails
again during a long run is not redriven a second time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery.states import FAILURE, READY_STATES, REVOKED
from django.db import Error as DatabaseFailure
from django.db import router, transaction
from django.utils import timezone

from orchestrator.audit.services import record
from orchestrator.celery import get_app
from orchestrator.contracts.errors import AlreadyClosed, BrokerUnavailable, InvalidOption, RedriveError
from orchestrator.contracts.events import LetterDiscarded, emit
from orchestrator.deadletters.discarding import stated
from orchestrator.deadletters.filters import Filter
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.redriving import redrive

#: Seconds that canaries have to fail again.
CANARY_WAIT = 60.0
#: Seconds between two looks at the canaries.
CANARY_POLL = 0.2
#: Letters discarded by one statement.
BATCH = 500


@dataclass(slots=True)
class Report:
    """What became of the letters that matched."""

    #: How many matched, after the limit.
    count: int = 0
    #: Letter id and new task id; the latter is empty for a discard.
    done: list[tuple[str, str]] = field(default_factory=list)
    #: Letter id and why nothing was to be done.
    skipped: list[tuple[str, str]] = field(default_factory=list)
    #: Letter id and error; the letter is as it was, unless the error says otherwise.
    failed: list[tuple[str, str]] = field(default_factory=list)
    #: Why the rest was left alone; empty if nothing was.
    stopped: str = ""


def redrive_where(
    chosen: Filter,
    *,
    by: Any = None,
    actor: str = "",
    limit: int | None = None,
    rate: float | None = None,
    canary: int | None = None,
    dry_run: bool = False,
    canary_wait: float = CANARY_WAIT,
    on_step: Callable[[Report], None] | None = None,
) -> Report:
    """Redrive the letters that match, oldest first.

    Args:
        chosen: which letters.
        by: Django user who asks.
        actor: name for the audit log where there is no user.
        limit: at most so many.
        rate: at most so many a second.
        canary: redrive so many first, wait for them, and go on only if none of them failed again.
        dry_run: only count.
        canary_wait: seconds to wait for canaries of which no result is heard.
        on_step: called with the report after every letter.

    Raises:
        InvalidOption: a number cannot work.
    """
    for name, value in (("limit", limit), ("rate", rate), ("canary", canary), ("canary_wait", canary_wait)):
        if value is not None and value <= 0:
            raise InvalidOption(f"{name}={value!r}: give a number above 0.")
    ids = _matching(chosen, limit)
    report = Report(count=len(ids))
    if dry_run or not ids:
        return report
    asked = {"rate": rate, "canary": canary, "limit": limit}
    _record("deadletter.redrive_where", chosen, ids, by=by, actor=actor, **asked)
    try:
        for number, letter_id in enumerate(_paced(ids, rate)):
            if canary and number == canary:
                report.stopped = _canaries([new_id for _, new_id in report.done], canary_wait) or _unfit(report)
            if report.stopped:
                break
            _redrive_into(report, letter_id, by=by, actor=actor)
            if on_step is not None:
                on_step(report)
    except KeyboardInterrupt:
        report.stopped = "Interrupted; a letter that was just being redriven is sent by the relay."
    if report.failed or report.stopped:
        done, failed, stopped = len(report.done), report.failed, report.stopped
        record("deadletter.redrive_incomplete", by=by, actor=actor, done=done, failed=failed, stopped=stopped)
    return report


def discard_where(
    chosen: Filter, *, reason: str, by: Any = None, actor: str = "", dry_run: bool = False, limit: int | None = None
) -> Report:
    """Close the letters that match for good, all or none of them.

    Raises:
        InvalidOption: the reason is blank, or the limit cannot work.
    """
    note = stated(reason)
    if limit is not None and limit <= 0:
        raise InvalidOption(f"limit={limit!r}: give a number above 0.")
    ids = _matching(chosen, limit)
    report = Report(count=len(ids))
    if dry_run or not ids:
        return report
    using = router.db_for_write(DeadLetter)
    with transaction.atomic(using=using):
        for start in range(0, len(ids), BATCH):
            _discard_batch(ids[start : start + BATCH], note, by, report)
        _record("deadletter.discard_where", chosen, [pk for pk, _ in report.done], by=by, actor=actor, reason=note)
    return report


def _discard_batch(ids: Sequence[str], note: str, by: Any, report: Report) -> None:
    using = router.db_for_write(DeadLetter)
    batch = DeadLetter.objects.using(using).filter(pk__in=ids)
    # The lock keeps the answer true until the commit; SQLite has none and needs none, it has one writer.
    opened = batch.filter(state=State.OPEN).select_for_update().values_list("pk", "task")
    tasks = {str(pk): task for pk, task in opened}
    batch.filter(pk__in=list(tasks), state=State.OPEN).update(
        state=State.DISCARDED, note=note, closed_at=timezone.now(), closed_by=by
    )
    for letter_id in ids:
        if letter_id not in tasks:
            report.skipped.append((letter_id, "not open any more"))
            continue
        report.done.append((letter_id, ""))
        event = LetterDiscarded(letter_id=letter_id, task=tasks[letter_id])
        transaction.on_commit(lambda event=event: emit(event), using=using)  # type: ignore[misc]


def _matching(chosen: Filter, limit: int | None) -> list[str]:
    found = chosen.queryset().order_by("died_at", "pk").values_list("pk", flat=True)
    return [str(pk) for pk in (found[:limit] if limit else found)]


def _record(action: str, chosen: Filter, ids: list[str], *, by: Any, actor: str, **details: Any) -> None:
    record(action, by=by, actor=actor, filter=chosen.to_mapping(), count=len(ids), ids=ids, **details)


def _redrive_into(report: Report, letter_id: str, *, by: Any, actor: str) -> None:
    try:
        report.done.append((letter_id, redrive(letter_id, by=by, actor=actor, audited=False)))
    except (AlreadyClosed, DeadLetter.DoesNotExist) as error:
        report.skipped.append((letter_id, str(error)))
    except RedriveError as error:
        report.failed.append((letter_id, str(error)))
    except (BrokerUnavailable, DatabaseFailure) as error:
        report.failed.append((letter_id, str(error)))
        report.stopped = f"Stopped at letter {letter_id}: {error}"


def _paced(items: Sequence[str], rate: float | None) -> Iterator[str]:
    """Yield items, so many a second at most."""
    due = time.monotonic()
    for item in items:
        now = time.monotonic()
        if rate and now < due:
            time.sleep(due - now)
        yield item
        # From the later of plan and present: a slow broker must not be followed by a burst.
        due = max(now, due) + (1 / rate if rate else 0.0)


def _unfit(report: Report) -> str:
    if not report.failed:
        return ""
    return f"Stopped after the canaries: {len(report.failed)} could not be redriven. {report.failed[0][1]}"


def _canaries(task_ids: Sequence[str], wait: float) -> str:
    """Wait until every canary ended, or for ``wait`` seconds; return why to stop, or nothing."""
    waiting = set(task_ids)
    deadline = time.monotonic() + wait
    while waiting:
        again = DeadLetter.objects.filter(task_id__in=task_ids).only("task_id", "error_type", "error_message").first()
        if again is not None:
            return (
                f"Stopped after the canaries: {again.task_id} failed again with {again.error_type}: "
                f"{again.error_message[:200]}"
            )
        for task_id in list(waiting):
            state = _state(task_id)
            if state in (FAILURE, REVOKED):
                return f"Stopped after the canaries: {task_id} ended as {state}."
            if state in READY_STATES:
                waiting.discard(task_id)
        if time.monotonic() >= deadline:
            break
        time.sleep(CANARY_POLL)
    return ""


def _state(task_id: str) -> str:
    """Return what the result backend knows; nothing where there is no backend, or no result is kept."""
    try:
        return str(get_app().AsyncResult(task_id).state)
    except (NotImplementedError, AttributeError):
        return ""
