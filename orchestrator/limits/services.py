"""Limits at run time: look at them, change them for everybody, take a change back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import router, transaction

from orchestrator.audit.services import record
from orchestrator.celery import get_app
from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.limits import PART, Concurrency, RateLimit, declared
from orchestrator.contracts.rates import MOST, Rate
from orchestrator.limits.models import LimitChange

#: How the store is told a limit: count, period in microseconds, burst.
Spec = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class State:
    """One limit: as declared, as changed (empty for not), and how many messages wait for it."""

    name: str
    declared: str
    changed: str
    waiting: int


def names() -> dict[str, str]:
    """Return what can be changed -> as it is declared: the limits of all tasks, each tier for itself."""
    return {name: value for limit in _declared().values() for name, value in limit.names.items()}


def change(name: str, value: str | int, *, by: Any = None, actor: str = "") -> None:
    """Let a limit be another than declared, in all processes, from now on; audited.

    Args:
        name: as declared, with ``|tier`` for one of several tiers.
        value: ``"200/m"`` for a rate, a number for slots; 0 (``"0/m"``) stops all starts.

    Raises:
        UnknownOption: no task declares such a limit.
        InvalidOption: the value is none for it.
        StoreUnavailable: the limits cannot be reached; nothing was changed.
    """
    text = str(value).strip()
    spec = read(name, text)
    with transaction.atomic(using=router.db_for_write(LimitChange)):
        before = LimitChange.objects.filter(name=name).values_list("value", flat=True).first()
        LimitChange.objects.update_or_create(name=name, defaults={"value": text})
        record("limit.change", by=by, actor=actor, target=name, value=text, before=before or names()[name])
        get_app().limits.change(name, *spec)


def restore(name: str, *, by: Any = None, actor: str = "") -> bool:
    """Let a limit be as declared; audited.

    Returns:
        False if it was.

    Raises:
        StoreUnavailable: the limits cannot be reached; nothing was changed.
    """
    with transaction.atomic(using=router.db_for_write(LimitChange)):
        found = LimitChange.objects.filter(name=name).delete()[0]
        if found:
            record("limit.restore", by=by, actor=actor, target=name)
        get_app().limits.restore(name)
    return bool(found)


def repair() -> int:
    """Let the store of limits say what the rows say, should it have lost its data; return how much differed.

    Raises:
        StoreUnavailable: the limits cannot be reached.
    """
    store = get_app().limits
    told, wanted = store.changes(), {}
    for name, value in LimitChange.objects.values_list("name", "value"):
        try:
            wanted[name] = read(name, value)
        except (InvalidOption, UnknownOption):
            continue  # no task declares it any more
    for name in [name for name in told if name not in wanted]:
        store.restore(name)
    differing = {name: spec for name, spec in wanted.items() if told.get(name) != spec}
    for name, spec in differing.items():
        store.change(name, *spec)
    return len(differing)


def states() -> list[State]:
    """Return all limits by name.

    Raises:
        StoreUnavailable: the limits cannot be reached.
    """
    store = get_app().limits
    changed = dict(LimitChange.objects.values_list("name", "value"))
    waiting = store.waiting()
    return [State(name, value, changed.get(name, ""), waiting.get(name, 0)) for name, value in sorted(names().items())]


def read(name: str, value: str) -> Spec:
    """Return a value as the store is told it; errors as for :func:`change`."""
    known = names()
    if name not in known:
        raise UnknownOption.among(name, known, "limits")
    limits = _declared()
    limit = limits.get(name) or limits[name.rpartition(PART)[0]]
    if isinstance(limit, RateLimit):
        rate = Rate.parse(value, f"Limit {name!r}", least=0)
        return rate.count, rate.microseconds, limit.burst
    if not value.isdecimal() or int(value) > MOST:
        raise InvalidOption(f"Limit {name!r}: {value!r} is no number of slots. Give a whole number, 0 or more.")
    return int(value), 0, 0


def _declared() -> dict[str, RateLimit | Concurrency]:
    app = get_app()
    app.loader.import_default_modules()
    app.finalize(auto=True)
    return declared()
