"""Publishing a dead letter again, at most once however often it is asked for.

Three steps, each safe to be cut off after::

    OPEN -> REDRIVING    one conditional UPDATE that also fixes the new task id; who loses it, lost
    publish              under that id, with a nonce of its own
    REDRIVING -> REDRIVEN

A row left in REDRIVING may or may not have been published. :func:`resume_interrupted`
publishes it again under the same id and another nonce, and workers start only one of
the two.
"""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import router, transaction
from django.utils import timezone

from orchestrator import conf
from orchestrator.audit.services import record
from orchestrator.celery import get_app
from orchestrator.contracts.errors import (
    AlreadyClosed,
    BrokerUnavailable,
    OrchestratorError,
    RedriveError,
)
from orchestrator.contracts.events import LetterRedriven, emit
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.plans import Plan, plan_of, stored_plan

logger = logging.getLogger(__name__)


def find(letter_id: Any) -> DeadLetter:
    """Return a letter.

    Raises:
        DeadLetter.DoesNotExist: there is none under this id.
    """
    try:
        return DeadLetter.objects.get(pk=letter_id)
    except (DeadLetter.DoesNotExist, ValidationError, ValueError):
        raise DeadLetter.DoesNotExist(f"There is no dead letter {letter_id}.") from None


def redrive(
    letter_id: Any,
    *,
    by: Any = None,
    actor: str = "",
    args: list[Any] | None = None,
    kwargs: dict[str, Any] | None = None,
    audited: bool = True,
) -> str:
    """Publish a letter's message again under a new id, with other arguments if any are given.

    Not inside a transaction, which ATOMIC_REQUESTS opens too: the steps have to be committed one by one.

    Args:
        letter_id: primary key.
        by: Django user who asks; permissions are the caller's business.
        actor: name for the audit log where there is no user.
        args: positional arguments instead of the letter's; None keeps them.
        kwargs: keyword arguments instead of the letter's; None keeps them.
        audited: False where the caller writes an entry for many letters.

    Returns:
        the new task id.
    Raises:
        DeadLetter.DoesNotExist: there is no such letter.
        AlreadyClosed: somebody was faster; the message names the new id, or who closed it.
        TaskMissing: its task is not registered in this process.
        PayloadIncompatible: the arguments do not fit the task's signature.
        PayloadUnreadable: there is no message to publish, or none that can be edited.
        BrokerUnavailable: not published, or perhaps; the message says which.
        RuntimeError: called inside a transaction.
    """
    row = find(letter_id)
    if row.state != State.OPEN:
        raise closed(row)
    plan = plan_of(row, args, kwargs)
    _claim(row, plan, by=by, actor=actor, audited=audited)
    try:
        _publish(row, plan)
    except BrokerUnavailable as error:
        if error.maybe_sent:
            raise BrokerUnavailable(
                f"{error} The message may have been sent as {row.redriven_as} all the same: the letter is kept as "
                "'being redriven', and the relay sends it again under that id; it runs once."
            ) from error
        _withdraw(row, error, by=by, actor=actor)
        raise
    except OrchestratorError as error:
        _withdraw(row, error, by=by, actor=actor)
        raise
    return row.redriven_as


def resume_interrupted() -> int:
    """Publish again what was cut off between its claim and its end; any number of relays may do so.

    Returns:
        how many letters are now certainly published.
    """
    limit = timezone.now() - timedelta(seconds=conf.settings().redrive_resume_seconds)
    stale = DeadLetter.objects.filter(state=State.REDRIVING, claimed_at__lt=limit).order_by("claimed_at")
    return sum(_resume(row) for row in stale[:100])


def closed(row: DeadLetter) -> AlreadyClosed:
    """Return the error for a letter that is not open, with what became of it."""
    who = f" by {row.closed_by.get_username()}" if row.closed_by else ""
    when = f" at {timezone.localtime(row.closed_at):%Y-%m-%d %H:%M:%S %Z}" if row.closed_at else ""
    if row.state == State.REDRIVING:
        return AlreadyClosed(f"Dead letter {row.pk} is being redriven{who} as task {row.redriven_as}.")
    if row.state == State.REDRIVEN:
        return AlreadyClosed(f"Dead letter {row.pk} was already redriven{who}{when} as task {row.redriven_as}.")
    return AlreadyClosed(f"Dead letter {row.pk} was discarded{who}{when}: {row.note}")


def _claim(row: DeadLetter, plan: Plan, *, by: Any, actor: str, audited: bool) -> None:
    """Make the letter ours and fix its new id, or raise AlreadyClosed. Committed before anything is sent."""
    using = router.db_for_write(DeadLetter)
    new_id, now = str(uuid.uuid4()), timezone.now()
    with transaction.atomic(using=using, durable=True):
        won = DeadLetter.objects.filter(pk=row.pk, state=State.OPEN).update(
            state=State.REDRIVING,
            redriven_as=new_id,
            claimed_at=now,
            closed_by=by,
            edits=plan.edits,
            edited_payload=plan.edited_payload,
            note="",
        )
        if won and audited:
            record(
                "deadletter.redrive",
                by=by,
                actor=actor,
                target=str(row.pk),
                task=row.task,
                task_id=row.task_id,
                new_task_id=new_id,
                edited=plan.edits is not None,
            )
    if not won:
        raise closed(find(row.pk))
    row.redriven_as, row.claimed_at = new_id, now


def _publish(row: DeadLetter, plan: Plan) -> None:
    """Send, then close the row. Raises what ``app.redrive`` raises, with the row left in REDRIVING."""
    app = get_app()
    group = row.group_id or str(plan.message.headers.get("group") or "")
    if group:
        # Before sending: the member may end before the next line runs, and its chord must know the id by then.
        _tell_group(app, group, row.task_id, row.redriven_as)
    app.redrive(
        plan.message,
        task_id=row.redriven_as,
        letter_id=str(row.pk),
        redrive_of=row.task_id,
        nonce=uuid.uuid4().hex,
        args=plan.args,
        kwargs=plan.kwargs,
    )
    DeadLetter.objects.filter(pk=row.pk, state=State.REDRIVING, redriven_as=row.redriven_as).update(
        state=State.REDRIVEN, closed_at=timezone.now(), edited_payload="", note=""
    )
    emit(LetterRedriven(letter_id=str(row.pk), task=row.task, new_task_id=row.redriven_as))


def _tell_group(app: Any, group: str, old: str, new: str) -> None:
    replaced = getattr(app, "member_redriven", None)
    if replaced is not None:
        replaced(group, old, new)


def _withdraw(row: DeadLetter, error: Exception, *, by: Any, actor: str) -> None:
    """Open the letter again: certainly nothing was sent. Whoever took it over meanwhile keeps it."""
    with transaction.atomic(using=router.db_for_write(DeadLetter)):
        opened = DeadLetter.objects.filter(
            pk=row.pk, state=State.REDRIVING, redriven_as=row.redriven_as, claimed_at=row.claimed_at
        ).update(
            state=State.OPEN, redriven_as="", claimed_at=None, closed_by=None, edits=None, edited_payload="", note=""
        )
        if opened:
            record(
                "deadletter.redrive_failed",
                by=by,
                actor=actor,
                target=str(row.pk),
                task=row.task,
                task_id=row.task_id,
                error=f"{type(error).__name__}: {error}",
            )
    if opened:
        group = row.group_id
        if group:
            _tell_group(get_app(), group, row.redriven_as, row.task_id)


def _resume(row: DeadLetter) -> bool:
    now = timezone.now()
    # One relay at a time: the claim moves on only if it is still the one that was seen.
    if not DeadLetter.objects.filter(pk=row.pk, state=State.REDRIVING, claimed_at=row.claimed_at).update(
        claimed_at=now
    ):
        return False
    row.claimed_at = now
    try:
        _publish(row, stored_plan(row))
    except BrokerUnavailable as error:
        logger.warning("Redrive of dead letter %s as %s still waits: %s", row.pk, row.redriven_as, error)
        return False
    except RedriveError as error:
        # The same bytes failed the first time as well, so nothing was ever sent.
        logger.error("Redrive of dead letter %s cannot be resumed, it is open again: %s", row.pk, error)
        _withdraw(row, error, by=row.closed_by, actor="relay")
        return False
    logger.info("Resumed the redrive of dead letter %s as %s", row.pk, row.redriven_as)
    return True
