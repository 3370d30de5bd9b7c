"""Records of tasks into rows of django-celery-results, many with one statement."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from celery import states
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connections, router, transaction
from django_celery_results.models import TaskResult

from orchestrator.contracts.progress import Record, Standing, is_news, kind_of

logger = logging.getLogger("orchestrator.runs")

#: What a database raises that is down, restarting or locked.
DATABASE_DOWN = (OperationalError, InterfaceError)

#: Columns whose value is kept where a report does not know it.
KEPT = ("periodic_task_name", "task_name", "task_args", "task_kwargs", "worker", "date_started")
#: Columns that every report sets.
SET = ("status", "result", "traceback", "meta", "content_type", "content_encoding", "date_done")
#: In the order of the statement; another release of django-celery-results may know fewer.
COLUMNS = tuple(
    name
    for name in ("task_id", *SET, *KEPT, "date_created")
    if name in {field.name for field in TaskResult._meta.get_fields()}
)
#: Columns of which :func:`standing` is made.
STANDING = ("task_id", "status", "meta", "date_started")
_TIMES = ("date_created", "date_started", "date_done")


def write(records: Iterable[Record], using: str | None = None) -> list[Record]:
    """Write the latest of what is reported of each task, where it is news.

    Returns:
        those that need not be written again: every one, but for records that the database refuses, which are logged.
    Raises:
        OperationalError, InterfaceError: the database is away; nothing is written.
    """
    alias = using or router.db_for_write(TaskResult)
    latest = sorted(_latest(records), key=lambda record: record.task_id)
    try:
        _write(latest, alias)
        return latest
    except DATABASE_DOWN:
        raise
    except DatabaseError:
        if len(latest) == 1:
            logger.exception("The result of task %s cannot be written; it stays in Redis", latest[0].task_id)
            return []
        # One of them is at fault. Sorted out one by one, the others get through.
        return [done for record in latest for done in write([record], alias)]


def as_row(record: Record) -> TaskResult:
    """Return the row that a record will be."""
    row = TaskResult(**dict(zip(COLUMNS, _values(record), strict=True)))
    return row


def standing(row: TaskResult) -> Standing:
    """Return what :func:`~orchestrator.contracts.progress.is_news` compares, of a row."""
    return kind_of(row.status), _retries(row.meta), row.date_started.timestamp() if row.date_started else 0.0


def _latest(records: Iterable[Record]) -> Iterable[Record]:
    found: dict[str, Record] = {}
    for record in records:
        known = found.get(record.task_id)
        if known is None or is_news(known.standing, record.standing):
            if known is not None and record.started is None:
                record.started = known.started
            found[record.task_id] = record
    return found.values()


def _write(records: Sequence[Record], alias: str) -> None:
    connection = connections[alias]
    # One transaction, whose first statement on SQLite waits for its turn; none of its own inside somebody else's.
    with transaction.atomic(using=alias):
        records = _news(records, alias)
        if not records:
            return
        rows = [_values(record) for record in records]
        if connection.vendor == "postgresql":
            # One JSON document instead of an array a column, which psycopg writes in Python: half of a relay's time.
            columns = ", ".join(f'"{name}" {"timestamptz" if name in _TIMES else "text"}' for name in COLUMNS)
            told = f"json_to_recordset(%s::json) AS told({columns})"
            statement = " ".join((_insert(connection), "SELECT * FROM", told, _upsert(connection)))
            document = json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows], default=datetime.isoformat)
            with connection.cursor() as cursor:
                cursor.execute(statement, [document])
        elif connection.vendor == "sqlite":
            marks = ", ".join(["%s"] * len(COLUMNS))
            adapt = connection.ops.adapt_datetimefield_value
            times = [COLUMNS.index(name) for name in _TIMES if name in COLUMNS]
            for row in rows:
                for at in times:
                    row[at] = adapt(row[at])
            statement = f"{_insert(connection)} VALUES ({marks}) {_upsert(connection)}"
            with connection.cursor() as cursor:
                cursor.executemany(statement, rows)
        else:
            _portable(records, alias)


def _news(records: Sequence[Record], alias: str) -> Sequence[Record]:
    """Leave out reports that say less than the row that is there. Ends are told by the statement itself."""
    asked = [record.task_id for record in records if not record.standing[0].final]
    if not asked:
        return records
    rows = TaskResult._default_manager.using(alias).filter(task_id__in=asked)
    known = {row.task_id: standing(row) for row in rows.only(*STANDING)}
    return [
        record
        for record in records
        if record.standing[0].final or record.task_id not in known or is_news(known[record.task_id], record.standing)
    ]


def _insert(connection: Any) -> str:
    quote = connection.ops.quote_name
    return f"INSERT INTO {quote(TaskResult._meta.db_table)} ({', '.join(map(quote, COLUMNS))})"


def _upsert(connection: Any) -> str:
    """Return the end of the statement: the rule of ``is_news`` again, for rows that came in between."""
    quote, table = connection.ops.quote_name, connection.ops.quote_name(TaskResult._meta.db_table)
    changes = [f"{quote(name)} = EXCLUDED.{quote(name)}" for name in SET]
    changes += [
        f"{quote(name)} = COALESCE(EXCLUDED.{quote(name)}, {table}.{quote(name)})" for name in KEPT if name in COLUMNS
    ]
    ends = ", ".join(f"'{state}'" for state in sorted(states.READY_STATES))
    return (
        f"ON CONFLICT ({quote('task_id')}) DO UPDATE SET {', '.join(changes)} "
        f"WHERE EXCLUDED.status = '{states.SUCCESS}' OR ({table}.status <> '{states.SUCCESS}' "
        f"AND (EXCLUDED.status IN ({ends}) OR {table}.date_done <= EXCLUDED.date_done))"
    )


def _portable(records: Sequence[Record], alias: str) -> None:
    """The same through Django alone, for other databases."""
    manager = TaskResult._default_manager.using(alias)
    rows = manager.select_for_update().filter(task_id__in=[record.task_id for record in records])
    known = {row.task_id: row for row in rows}
    fresh = []
    for record in records:
        old = known.get(record.task_id)
        values = dict(zip(COLUMNS, _values(record), strict=True))
        if old is None:
            fresh.append(TaskResult(**values))
        elif is_news(standing(old), record.standing):
            changes = {
                name: value for name, value in values.items() if name in SET or (name in KEPT and value is not None)
            }
            manager.filter(pk=old.pk).update(**changes)
    manager.bulk_create(fresh)


def _values(record: Record) -> list[Any]:
    columns, zone = record.columns, UTC if settings.USE_TZ else None
    moment = datetime.fromtimestamp
    known = {
        "task_id": record.task_id,
        "status": record.status,
        "date_done": moment(record.at, zone),
        "date_started": None if record.started is None else moment(record.started, zone),
        "date_created": moment(record.at if record.created is None else record.created, zone),
    }
    return [known[name] if name in known else columns.get(name) for name in COLUMNS]


def _retries(meta: str | None) -> int:
    try:
        return int(json.loads(meta or "{}").get("retries", -1))
    except (ValueError, TypeError, AttributeError):
        return -1
