"""Closing dead letters for good."""

from __future__ import annotations

from typing import Any

from django.db import router, transaction
from django.utils import timezone

from orchestrator.audit.services import record
from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.events import LetterDiscarded, emit
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.redriving import closed, find


def discard(letter_id: Any, *, reason: str, by: Any = None, actor: str = "") -> None:
    """Close a letter for good, with the reason that people read later.

    Raises:
        DeadLetter.DoesNotExist: there is no such letter.
        InvalidOption: the reason is blank.
        AlreadyClosed: it is not open.
    """
    note = stated(reason)
    row = find(letter_id)
    using = router.db_for_write(DeadLetter)
    with transaction.atomic(using=using):
        won = DeadLetter.objects.filter(pk=row.pk, state=State.OPEN).update(
            state=State.DISCARDED, note=note, closed_at=timezone.now(), closed_by=by
        )
        if not won:
            raise closed(find(row.pk))
        record(
            "deadletter.discard",
            by=by,
            actor=actor,
            target=str(row.pk),
            task=row.task,
            task_id=row.task_id,
            reason=note,
        )
        event = LetterDiscarded(letter_id=str(row.pk), task=row.task)
        transaction.on_commit(lambda: emit(event), using=using)


def stated(reason: str) -> str:
    """Return a reason without blanks around it.

    Raises:
        InvalidOption: nothing is left.
    """
    note = reason.strip()
    if not note:
        raise InvalidOption("Give a reason for discarding: a discarded letter is closed for good, and others ask why.")
    return note
