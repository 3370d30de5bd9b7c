"""The result backend: django-celery-results' tables, and no result lost when they are away."""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from celery import states
from django.db import connections, router
from django_celery_results.backends.database import DatabaseBackend
from django_celery_results.models import TaskResult

from orchestrator.contracts.documents import legible
from orchestrator.runs import chords, spool
from orchestrator.runs.spool import DATABASE_DOWN

logger = logging.getLogger("orchestrator.runs")

#: States that end a run or tell that it goes on later; worth keeping while the database is away.
KEPT = states.READY_STATES | {states.RETRY}
#: Columns of django-celery-results' table; another release may know fewer.
COLUMNS = frozenset(field.name for field in TaskResult._meta.get_fields())
#: Characters that fit; a cut task id would be another task's.
LENGTHS = {
    field.name: field.max_length
    for field in TaskResult._meta.concrete_fields
    if field.max_length and field.name != "task_id"
}
#: Task ids remembered as spooled, so that their chord part follows the same way.
REMEMBERED = 10_000


class ResultBackend(DatabaseBackend):  # type: ignore[misc]  # django-celery-results is untyped
    """Writes results into the database, or into the Redis spool while it is down.

    *Fails: a state that nobody will miss (STARTED, PROGRESS) open, an end closed.*
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._spooled: OrderedDict[str, None] = OrderedDict()

    def _store_result(
        self, task_id: str, result: Any, status: str, traceback: Any = None, request: Any = None, using: Any = None
    ) -> Any:
        content_type, content_encoding, encoded = self.encode_content(result)
        meta = {**self._get_meta_from_request(request), "children": self.current_task_children(request)}
        record = {
            "content_type": content_type,
            "content_encoding": content_encoding,
            "task_id": task_id,
            "result": encoded,
            "status": status,
            "meta": self.encode_content(meta)[2],
            **self._get_extended_properties(request, traceback),
            "traceback": traceback,
        }
        if status == states.STARTED:
            record["date_started"] = datetime.now(UTC)
        record = {name: _storable(name, value) for name, value in record.items()}
        try:
            self._write(record, using)
        except DATABASE_DOWN as error:
            if status not in KEPT:
                logger.warning("State %s of task %s is not shown: %s", status, task_id, type(error).__name__)
                return encoded
            spool.spool({"kind": "result", "props": record})
            self._remember(task_id)
            logger.warning("Result of task %s waits in Redis: %s", task_id, type(error).__name__)
        return encoded

    def _write(self, record: dict[str, Any], using: Any = None) -> None:
        """Write one row; on a connection that went stale, try once more on a fresh one."""
        alias = using or router.db_for_write(TaskResult)
        connection = connections[alias]
        store = TaskResult._default_manager.store_result if record["status"] in states.READY_STATES else _show
        try:
            store(**record, using=alias)
        except DATABASE_DOWN:
            if connection.in_atomic_block:
                raise
            connection.close()
            store(**record, using=alias)

    def write_spooled(self, record: dict[str, Any]) -> None:
        """Write what :mod:`orchestrator.runs.spool` kept. A later end in the database stands."""
        if record["kind"] == "chord":
            chords.member_returned(self.app, record["group"], record["body"])
            return
        props = record["props"]
        at = datetime.fromtimestamp(record["at"], UTC)
        newer = TaskResult.objects.filter(
            task_id=props["task_id"], status__in=states.READY_STATES, date_done__gt=at
        ).exists()
        if not newer:
            self._write(props)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a chord's member, after its result, wherever that went."""
        if not request.id or not request.group:
            return
        part = {"kind": "chord", "group": request.group, "body": request.chord}
        if request.id in self._spooled:
            spool.spool(part)
            return
        try:
            chords.member_returned(self.app, request.group, request.chord)
        except DATABASE_DOWN as error:
            logger.warning("Chord %s waits in Redis: %s", request.group, type(error).__name__)
            spool.spool(part)

    def member_redriven(self, group_id: str, old_task_id: str, new_task_id: str) -> None:
        """Let groups and chords follow a member that goes on under a new id."""
        chords.replace_member(group_id, old_task_id, new_task_id)
        row = self.GroupModel._default_manager.filter(group_id=group_id).first()
        if row is None:
            return
        members = self.decode_content(row, row.result)
        content_type, content_encoding, result = self.encode_content(chords.renamed(members, old_task_id, new_task_id))
        self.GroupModel._default_manager.store_group_result(content_type, content_encoding, group_id, result)

    def _remember(self, task_id: str) -> None:
        self._spooled[task_id] = None
        while len(self._spooled) > REMEMBERED:
            self._spooled.popitem(last=False)


def _storable(name: str, value: Any) -> Any:
    """Return a value that every database takes: PostgreSQL refuses NUL, half a surrogate pair and what is too long."""
    return legible(value.replace("\0", "\\x00"))[: LENGTHS.get(name)] if isinstance(value, str) else value


def _show(*, using: str, task_id: str, **fields: Any) -> None:
    """Write a state that is no end, but never over a success: a second copy of a message may start late."""
    rows = TaskResult._default_manager.using(using)
    fields = {name: value for name, value in fields.items() if name in COLUMNS}
    _, created = rows.get_or_create(task_id=task_id, defaults=fields)
    if not created:
        rows.filter(task_id=task_id).exclude(status=states.SUCCESS).update(**fields, date_done=datetime.now(UTC))
