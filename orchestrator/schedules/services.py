"""Verbs on schedules and when they run next.

Permissions are checked by the caller; every verb writes its audit entry in the same
transaction, so an act that cannot be recorded is not done.
"""

from __future__ import annotations

import difflib
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from kombu.exceptions import OperationalError
from kombu.utils import json as wire

from orchestrator.audit.services import record
from orchestrator.celery import get_app
from orchestrator.contracts.documents import parse_document
from orchestrator.contracts.errors import BrokerUnavailable, InvalidOption, UnknownTask

#: Columns that are options of the message.
OPTIONS = ("queue", "exchange", "routing_key", "priority")


def registered_tasks() -> Any:
    """Return the project's tasks by name, all modules imported."""
    app = get_app()
    app.loader.import_default_modules()
    return app.tasks


def require_task(name: str) -> None:
    """Refuse a name that no task is registered under.

    Raises:
        UnknownTask: with the nearest name.
    """
    tasks = registered_tasks()
    if name in tasks:
        return
    near = difflib.get_close_matches(name, list(tasks), n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "is its module in INSTALLED_APPS or CELERY_IMPORTS?"
    raise UnknownTask(f"No task is registered as {name!r}, {hint}")


def next_run(task: PeriodicTask, now: datetime | None = None) -> datetime | None:
    """Return when a schedule is due, a time in the past if it is overdue, None if it is off or never due."""
    now = now or timezone.now()
    if not task.enabled or (task.expires and task.expires <= now) or (task.one_off and task.total_run_count):
        return None
    if task.clocked_id:
        due: datetime = task.clocked.clocked_time
        return due
    try:
        if task.start_time and task.start_time > now:
            start: datetime = task.due_start_time(task.start_time.tzinfo)
            return start
        remaining: timedelta = task.schedule.remaining_estimate(task.last_run_at or task.date_changed or now)
    except (RuntimeError, ValueError):
        # Celery refuses a date that never comes, such as 30 February.
        return None
    # The estimate counts from a clock that Celery reads itself, so the sum is off by milliseconds.
    return (timezone.now() + remaining + timedelta(milliseconds=500)).replace(microsecond=0)


def set_enabled(task: PeriodicTask, enabled: bool, *, by: Any = None, actor: str = "") -> bool:
    """Turn a schedule on or off.

    Returns:
        False if it was so already.
    Raises:
        InvalidOption: the row is broken, so it cannot be saved.
    """
    if task.enabled == enabled:
        return False
    task.enabled = enabled
    try:
        with transaction.atomic():
            # By row, not by one UPDATE: saving moves date_changed, without which a schedule that
            # was off for a week would count as overdue the moment it is turned on.
            task.save()
            record("schedule.enable" if enabled else "schedule.disable", by=by, actor=actor, target=task.name)
    except ValidationError as error:
        raise InvalidOption(f"Schedule {task.name!r} cannot be saved: {'; '.join(error.messages)}") from error
    return True


def message_options(task: PeriodicTask) -> dict[str, Any]:
    """Return the options that the scheduler publishes this schedule with.

    Raises:
        InvalidOption: the headers are no JSON object, or the schedule has expired.
    """
    options = {name: getattr(task, name) for name in OPTIONS if getattr(task, name) not in (None, "")}
    if task.expires and task.expires <= timezone.now():
        ended = timezone.localtime(task.expires)
        raise InvalidOption(
            f"Schedule {task.name!r} expired at {ended:%Y-%m-%d %H:%M:%S %Z}, so its message would be dropped: "
            "clear or move its expiry first."
        )
    if task.expires_:
        options["expires"] = task.expires_
    options["headers"] = {**_document(task, "headers", dict), "periodic_task_name": task.name}
    return options


def run_now(task: PeriodicTask, *, by: Any = None, actor: str = "") -> str:
    """Publish a schedule's task now, with the options that the scheduler would use.

    Returns:
        the task id.
    Raises:
        UnknownTask: its task is not registered here.
        InvalidOption: its arguments or headers cannot be read, or it has expired.
        BrokerUnavailable: not published, as far as is known.
    """
    require_task(task.task)
    args, kwargs = _document(task, "args", list), _document(task, "kwargs", dict)
    options = message_options(task)
    task_id = str(uuid4())
    with transaction.atomic():
        record("schedule.run", by=by, actor=actor, target=task.name, task=task.task, task_id=task_id)
        try:
            # At once: a person waits for the answer, and is told if the broker is away.
            get_app().tasks[task.task].apply_async(args, kwargs, task_id=task_id, outbox=False, **options)
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(
                f"Schedule {task.name!r} was not run: the broker cannot be reached ({error}). "
                "Is it up, and is ORCHESTRATOR_BROKER_URL right?"
            ) from error
    return task_id


def _document(task: PeriodicTask, column: str, kind: type) -> Any:
    text = getattr(task, column) or ("[]" if kind is list else "{}")
    try:
        return parse_document(text, kind, wire.object_hook)
    except InvalidOption as error:
        raise InvalidOption(f"Schedule {task.name!r}, {column}: {error}") from error
