"""The result backend: django-celery-results' tables, written in bulk by way of Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from celery import states
from celery.app.task import Context
from celery.exceptions import TimeoutError as CeleryTimeoutError
from django_celery_results.backends.database import DatabaseBackend
from django_celery_results.models import TaskResult

from orchestrator.contracts import reports
from orchestrator.contracts.documents import legible
from orchestrator.contracts.message import HEADER
from orchestrator.contracts.progress import Record
from orchestrator.contracts.reports import Report
from orchestrator.runs import chords, reading
from orchestrator.runs.outgoing import outgoing, store
from orchestrator.transport import office

#: Characters that fit; a cut task id would be another task's.
LENGTHS = {
    field.name: field.max_length
    for field in TaskResult._meta.concrete_fields
    if field.max_length and field.name != "task_id"
}
#: Types whose JSON is the same whoever writes it.
PLAIN = (type(None), bool, int, str)
#: Seconds between two looks while somebody waits for a result: the first; it doubles up to what the caller asks for.
FIRST_LOOK = 0.005
#: Seconds for which a state that was fetched with others answers the first look at it.
FRESH = 1.0


class ResultBackend(DatabaseBackend):  # type: ignore[misc]  # django-celery-results is untyped
    """Reports go to Redis, relays write the rows, readers look at both.

    *Fails: a state that nobody will miss (STARTED, PROGRESS) open, an end closed;
    see* :mod:`orchestrator.runs.outgoing`.
    """

    supports_native_join = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._extended: bool | None = None
        #: Rows by task id that nobody has looked at yet, and until when they are fresh; a backend is a thread's own.
        self._fetched: dict[str, TaskResult | None] = {}
        self._fetched_until = 0.0

    # --- writing --------------------------------------------------------------------

    def _store_result(
        self, task_id: str, result: Any, status: str, traceback: Any = None, request: Any = None, using: Any = None
    ) -> Any:
        gather = self.gathers(request)
        if status == states.STARTED and gather:
            if reports.collected() is not None:
                return result  # the main process tells
            if office.attended():
                outgoing().begin(task_id, partial(self._record, task_id, result, status, time.time(), None, request))
                return result
        record = self._record(task_id, result, status, time.time(), traceback, request)
        outgoing().put(record, gather=gather)
        return record.columns["result"]

    def begun(self, request: Any, started: float) -> None:
        """Report that a pool's process began with a message which this process acknowledges, unless it ends soon."""
        outgoing().begin(request.id, partial(self._begun, request, started))

    def _begun(self, request: Any, started: float) -> Record:
        facts = Context(
            dict(request.request_dict),
            hostname=request.hostname,
            argsrepr=request.argsrepr,
            kwargsrepr=request.kwargsrepr,
        )
        who = {"pid": request.worker_pid, "hostname": request.hostname}
        return self._record(request.id, who, states.STARTED, started, None, facts)

    def take(self, gathered: list[Report], task_id: str) -> None:
        """Take what a pool's process reported together with its answer on a task."""
        outgoing().take(gathered, task_id)

    def _record(self, task_id: str, result: Any, status: str, at: float, traceback: Any, request: Any) -> Record:
        content_type, content_encoding, encoded = self._encoded(result)
        columns = {
            "content_type": content_type,
            "content_encoding": content_encoding,
            "result": encoded,
            "traceback": traceback,
            "meta": self._meta(request),
            **self._described(request),
        }
        header = (getattr(request, HEADER, None) if request is not None else None) or {}
        return Record(
            task_id=task_id,
            status=status,
            columns={name: _storable(name, value) for name, value in columns.items() if value is not None},
            at=at,
            retries=-1 if request is None else getattr(request, "retries", None) or 0,
            created=header.get("at"),
            started=at if status == states.STARTED else getattr(request, "orchestrator_started", None),
        )

    def gathers(self, request: Any) -> bool:
        """Whether a report may wait for others: its message is acknowledged only after it, and nobody counts on it."""
        task = self.app.tasks.get(getattr(request, "task", None) or "")
        return bool(task is not None and task.acks_late and not request.chord and outgoing().gathers)

    def _encoded(self, value: Any) -> tuple[str, str, str]:
        if self.serializer == "json" and type(value) in PLAIN:
            return "application/json", "utf-8", json.dumps(value)
        found: tuple[str, str, str] = self.encode_content(value)
        return found

    def _meta(self, request: Any) -> str:
        meta = self._get_meta_from_request(request)
        children = self.current_task_children(request)
        retries = 0 if request is None else getattr(request, "retries", None) or 0
        if not meta and self.serializer == "json":
            # What nearly every task has.
            return json.dumps({"children": children or [], **({"retries": retries} if retries else {})})
        encoded: str = self.encode_content({**meta, "children": children, "retries": retries})[2]
        return encoded

    def _described(self, request: Any) -> dict[str, Any]:
        """Return the columns that tell which task it is, as django-celery-results fills them."""
        if self._extended is None:
            self._extended = bool(self.app.conf.find_value_for_key("extended", "result"))
        if request is None or not self._extended:
            return {}
        arguments = {}
        for name in ("args", "kwargs"):
            value = getattr(request, f"{name}repr", None)
            if value is None:
                value = getattr(request, name, None)
            arguments[f"task_{name}"] = None if value is None else self._encoded(value)[2]
        return {
            **arguments,
            "task_name": getattr(request, "task", None),
            "worker": getattr(request, "hostname", None),
            "periodic_task_name": getattr(request, "periodic_task_name", None),
        }

    # --- reading --------------------------------------------------------------------

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        if task_id in self._fetched and time.monotonic() < self._fetched_until:
            row = self._fetched.pop(task_id)
        else:
            row = reading.latest(store(), [task_id]).get(task_id)
        return self._meta_of(TaskResult(task_id=task_id) if row is None else row)

    def prefetch(self, task_ids: Sequence[str]) -> None:
        """Fetch what the next look at each of some tasks is answered with, if it comes within :data:`FRESH`."""
        found = reading.latest(store(), task_ids)
        self._fetched = {task_id: found.get(task_id) for task_id in task_ids}
        self._fetched_until = time.monotonic() + FRESH

    def states_of(self, task_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the state of each task of which anything is known, by id."""
        return reading.states(store(), task_ids)

    def _meta_of(self, row: TaskResult) -> dict[str, Any]:
        """Return what Celery calls a task's meta. A row that does not decode is told as it is."""
        known = row.as_dict()
        meta = self.decode_content(row, known.pop("meta", None)) or {}
        arguments = {}
        for name in ("args", "kwargs"):
            try:
                arguments[name] = self.decode_content(row, known[f"task_{name}"])
            except Exception:
                # Other releases stored what was no JSON.
                arguments[name] = known[f"task_{name}"]
            arguments[f"task_{name}"] = arguments[name]
        result = self.decode_content(row, known["result"])
        found: dict[str, Any] = self.meta_from_decoded({**known, **meta, **arguments, "result": result})
        return found

    def get_many(
        self,
        task_ids: Sequence[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield ``(task id, meta)`` as tasks end; one call to Redis and one query a look, however many there are.

        Raises:
            TimeoutError: some did not end in time.
        """
        left = dict.fromkeys(str(task_id) for task_id in task_ids)
        end = None if timeout is None else time.monotonic() + timeout
        pause = min(FIRST_LOOK, interval or FIRST_LOOK)
        while left:
            for task_id, row in reading.latest(store(), list(left)).items():
                if row.status in states.READY_STATES:
                    del left[task_id]
                    meta = self._meta_of(row)
                    if on_message is not None:
                        on_message(meta)
                    yield task_id, meta
            if not left:
                return
            if end is not None and time.monotonic() >= end:
                raise CeleryTimeoutError(f"{len(left)} of the tasks did not end within {timeout} s")
            if on_interval is not None:
                on_interval()
            if max_iterations is not None and (max_iterations := max_iterations - 1) <= 0:
                return
            time.sleep(pause)
            pause = min(pause * 2, interval or FIRST_LOOK)

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Any = None,
    ) -> dict[str, Any] | None:
        """Wait for one task, looking often at first.

        Raises:
            TimeoutError: it did not end in time.
        """
        self._ensure_not_eager()
        found = self.get_many([task_id], timeout=timeout, interval=interval, on_interval=on_interval)
        return next((meta for _, meta in found), None)

    def _forget(self, task_id: str) -> None:
        store().forget(task_id)
        TaskResult._default_manager.filter(task_id=task_id).delete()

    # --- chords -----------------------------------------------------------------------

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Note a chord before its members are sent."""
        chords.begin(self.app, header_result_args, body)

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Count a chord's member, after its result."""
        if request.id and request.group:
            outgoing().flush()
            chords.member_returned(self.app, request.group, request.id, request.chord)

    def member_redriven(self, group_id: str, old_task_id: str, new_task_id: str) -> None:
        """Let groups and chords follow a member that goes on under a new id."""
        chords.replace_member(group_id, old_task_id, new_task_id)
        row = self.GroupModel._default_manager.filter(group_id=group_id).first()
        if row is None:
            return
        members = self.decode_content(row, row.result)
        content_type, content_encoding, result = self.encode_content(chords.renamed(members, old_task_id, new_task_id))
        self.GroupModel._default_manager.store_group_result(content_type, content_encoding, group_id, result)


def _storable(name: str, value: Any) -> Any:
    """Return a value that every database takes: PostgreSQL refuses NUL, half a surrogate pair and what is too long."""
    if not isinstance(value, str):
        return value
    limit = LENGTHS.get(name)
    if value.isascii() and "\0" not in value:
        return value if limit is None or len(value) <= limit else value[:limit]
    return legible(value.replace("\0", "\\x00"))[:limit]
