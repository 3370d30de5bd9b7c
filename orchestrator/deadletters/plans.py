"""What a redrive would publish, checked before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from kombu.utils import json as wire

from orchestrator.celery import get_app
from orchestrator.contracts import codec
from orchestrator.contracts.errors import PayloadUnreadable, TaskMissing
from orchestrator.contracts.message import WireMessage
from orchestrator.deadletters.filing import RAW_LETTER
from orchestrator.deadletters.models import DeadLetter


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be published: the message as it was, or with other arguments."""

    message: WireMessage
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    edits: dict[str, Any] | None = None

    @property
    def edited_payload(self) -> str:
        """The edited arguments as a column value, empty if nothing is edited."""
        if self.edits is None:
            return ""
        body = wire.dumps([self.args, self.kwargs]).encode("utf-8")
        return codec.seal(replace(self.message, body=body, content_type="application/json", content_encoding="utf-8"))


def plan_of(row: DeadLetter, args: list[Any] | None, kwargs: dict[str, Any] | None) -> Plan:
    """Return what to publish for a letter, with other arguments where they are given.

    Raises:
        TaskMissing: its task is not registered in this process.
        PayloadIncompatible: the arguments do not fit the task's signature.
        PayloadUnreadable: there is no message to publish, or none that can be edited.
    """
    app = get_app()
    message = row.message
    if message.content_type == RAW_LETTER:
        raise PayloadUnreadable(
            f"Dead letter {row.pk} holds the bytes of a letter that could not be read, not a message, "
            "so there is nothing to publish; look at the bytes, or discard it."
        )
    _require_task(app, row)
    edited = args is not None or kwargs is not None
    try:
        old_args, old_kwargs, _ = app.decode(message)
    except PayloadUnreadable:
        if edited:
            raise
        return Plan(message)  # byte for byte: the worker may understand what this process cannot
    new_args = old_args if args is None else args
    new_kwargs = old_kwargs if kwargs is None else kwargs
    app.check_arguments(row.task, new_args, new_kwargs)
    if (new_args, new_kwargs) == (old_args, old_kwargs):
        return Plan(message)
    task = app.tasks[row.task]
    before, after = app.reprs(task, old_args, old_kwargs), app.reprs(task, new_args, new_kwargs)
    edits = {"args": [before[0], after[0]], "kwargs": [before[1], after[1]]}
    return Plan(message, new_args, new_kwargs, edits)


def _require_task(app: Any, row: DeadLetter) -> None:
    if not row.task:
        raise TaskMissing(f"Dead letter {row.pk} names no task, so nobody could run it; it can only be discarded.")
    if row.task not in app.tasks:
        # A web process imports the task modules of installed apps only when somebody needs them.
        app.loader.import_default_modules()
    if row.task not in app.tasks:
        raise TaskMissing(
            f"Dead letter {row.pk} is of task {row.task!r}, which is not registered in this process. Was it renamed or "
            f"removed, or is its app missing in INSTALLED_APPS? Register a task with name={row.task!r} and redrive "
            "again, or discard the letter."
        )


def stored_plan(row: DeadLetter) -> Plan:
    """Return the plan of a redrive that was cut off.

    Raises:
        PayloadUnreadable: a column cannot be read by this release.
    """
    if not row.edited_payload:
        return Plan(row.message)
    args, kwargs = wire.loads(codec.unseal(row.edited_payload).body)
    return Plan(row.message, args, kwargs, row.edits)
