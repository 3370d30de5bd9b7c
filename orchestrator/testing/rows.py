"""What the database holds: kept, put back, and compared without what differs by chance."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.apps import apps
from django.db import connections, models, router, transaction

#: Django apps whose rows tell about runs, not about what they did.
OWN = frozenset({"orchestrator_idempotency"})

#: Database alias and table name.
Table = tuple[str, str]
Rows = dict[Table, list[tuple[Any, ...]]]


def _models() -> dict[Table, type[models.Model]]:
    found = {}
    for model in apps.get_models(include_auto_created=True):
        if model._meta.managed and not model._meta.proxy:
            found[router.db_for_write(model), model._meta.db_table] = model
    return found


def _columns(model: type[models.Model]) -> list[Any]:
    return list(model._meta.local_concrete_fields)


def dump() -> Rows:
    """Return all rows as the database gives them."""
    kept: Rows = {}
    for (alias, table), model in _models().items():
        quote = connections[alias].ops.quote_name
        names = ", ".join(quote(field.column) for field in _columns(model))
        with connections[alias].cursor() as cursor:
            cursor.execute(f"SELECT {names} FROM {quote(table)}")  # noqa: S608 - names of models
            kept[alias, table] = list(cursor.fetchall())
    return kept


def restore(kept: Rows) -> None:
    """Put back what :func:`dump` kept: tables that changed are emptied and filled again."""
    now = dump()
    changed = [place for place in kept if sorted(map(repr, kept[place])) != sorted(map(repr, now[place]))]
    known = _models()
    for alias in {alias for alias, _ in changed}:
        quote = connections[alias].ops.quote_name
        # Foreign keys that Django made are checked at the commit, so the order does not matter.
        with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
            for place in (place for place in changed if place[0] == alias):
                table, fields = quote(place[1]), _columns(known[place])
                names = ", ".join(quote(field.column) for field in fields)
                marks = ", ".join(["%s"] * len(fields))
                cursor.execute(f"DELETE FROM {table}")  # noqa: S608 - names of models
                if kept[place]:
                    cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", kept[place])  # noqa: S608


def comparable(rows: Rows, before: Rows, ignore: Collection[str]) -> dict[str, list[str]]:
    """Return rows by model in a form in which two runs with the same effect are equal.

    Left out: automatic keys, times of writing, values that a default makes anew, and the
    ``ignore``d fields (``"app_label.Model.field"``). A reference to a row that was not
    there before says only that it is new.
    """
    known = _models()
    shown: dict[str, list[str]] = {}
    for place, model in known.items():
        if model._meta.app_label in OWN:
            continue
        label = model._meta.label
        kept = [
            (at, field)
            for at, field in enumerate(_columns(model))
            if not _by_chance(field) and f"{label}.{field.name}" not in ignore
        ]
        shown[label] = sorted(
            ", ".join(f"{field.name}={_value(field, row[at], before, known)!r}" for at, field in kept)
            for row in rows[place]
        )
    return shown


def _by_chance(field: Any) -> bool:
    made_anew = field.has_default() and callable(field.default) and field.default not in (dict, list, str)
    times = getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)
    return isinstance(field, models.AutoField) or made_anew or bool(times)


def _value(field: Any, value: Any, before: Rows, known: dict[Table, type[models.Model]]) -> Any:
    if value is None or field.remote_field is None:
        return value
    target = field.target_field
    place = next((place for place, model in known.items() if model is target.model), None)
    if place is None:
        return value
    at = [column.name for column in _columns(known[place])].index(target.name)
    return value if any(row[at] == value for row in before[place]) else "(new)"
