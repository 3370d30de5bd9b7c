"""Which dead letters somebody means: one value for the admin, Flower, the shell and the audit log."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime, time
from typing import Any

from django.db.models import Count, Max, Min, Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters.models import DeadLetter, State

#: Ends a task name that stands for every task whose name begins so.
WILDCARD = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Conditions that a dead letter meets, all of them; an empty one asks nothing.

    Args:
        ids: letters by id.
        task: exact name, or its beginning followed by ``*``.
        queue: exact name.
        reason: one of :class:`~orchestrator.contracts.outcome.Reason`.
        error_type: exception class, with or without its module.
        text: occurs in the redacted projection (task, ids, error, redacted arguments), in any case.
        fingerprint: one group of equal failures.
        since: died at or after this time; text is read as a date or time, naive ones in the site's time zone.
        until: died before this time.
        state: one of :class:`~orchestrator.deadletters.models.State`; empty means any.

    Raises:
        InvalidOption: a value cannot work.
    """

    ids: tuple[str, ...] = ()
    task: str = ""
    queue: str = ""
    reason: str = ""
    error_type: str = ""
    text: str = ""
    fingerprint: str = ""
    since: datetime | None = None
    until: datetime | None = None
    state: str = State.OPEN.value

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", tuple(_letter_id(value) for value in _listed(self.ids)))
        for name in ("since", "until"):
            object.__setattr__(self, name, _moment(name, getattr(self, name)))
        object.__setattr__(self, "reason", _member("reason", self.reason, [reason.value for reason in Reason]))
        object.__setattr__(self, "state", _member("state", self.state, [str(value) for value in State.values]))
        if self.since and self.until and self.since >= self.until:
            raise InvalidOption(
                f"since={self.since.isoformat()} is not before until={self.until.isoformat()}: no letter can match."
            )

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Filter:
        """Build a filter from a form, a command line or JSON. Blank values ask nothing, ``state=""`` means any.

        Raises:
            UnknownOption: a name is none of a filter's.
            InvalidOption: a value cannot work.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise UnknownOption.among(name, known, "a filter of dead letters")
        values = {name: value for name, value in given.items() if value not in (None, "", (), [])}
        if given.get("state") == "":
            values["state"] = ""
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Return what is asked as JSON-able values, which :meth:`from_mapping` takes back."""
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, datetime):
                values[field.name] = value.isoformat()
            elif field.name == "ids":
                values.update({"ids": list(value)} if value else {})
            elif value or field.name == "state":
                values[field.name] = value
        return values

    @property
    def narrow(self) -> bool:
        """Whether anything is asked besides the state."""
        return any(getattr(self, field.name) for field in fields(self) if field.name != "state")

    def queryset(self) -> QuerySet[DeadLetter]:
        """Return the letters that match, newest first."""
        found = DeadLetter.objects.all()
        if self.ids:
            found = found.filter(pk__in=self.ids)
        for name in ("state", "queue", "reason", "fingerprint"):
            if value := getattr(self, name):
                found = found.filter(**{name: value})
        if self.task.endswith(WILDCARD):
            found = found.filter(task__startswith=self.task.removesuffix(WILDCARD))
        elif self.task:
            found = found.filter(task=self.task)
        if self.error_type:
            found = found.filter(Q(error_type=self.error_type) | Q(error_type__endswith=f".{self.error_type}"))
        if self.text:
            found = found.filter(search__contains=self.text.lower())
        if self.since:
            found = found.filter(died_at__gte=self.since)
        if self.until:
            found = found.filter(died_at__lt=self.until)
        return found

    def describe(self) -> str:
        """Return the filter as a phrase, such as ``open letters of task 'mail.send' with reason failed``."""
        said = [f"{State(self.state).label.lower()} letters" if self.state else "letters in any state"]
        if self.ids:
            said.append(f"among {len(self.ids)} named" if len(self.ids) > 1 else f"with id {self.ids[0]}")
        if self.task:
            said.append(f"of task {self.task!r}")
        if self.queue:
            said.append(f"on queue {self.queue!r}")
        if self.reason:
            said.append(f"with reason {self.reason}")
        if self.error_type:
            said.append(f"with error {self.error_type}")
        if self.text:
            said.append(f"mentioning {self.text!r}")
        if self.fingerprint:
            said.append(f"of failure group {self.fingerprint[:8]}")
        if self.since:
            said.append(f"since {timezone.localtime(self.since):%Y-%m-%d %H:%M:%S %Z}")
        if self.until:
            said.append(f"until {timezone.localtime(self.until):%Y-%m-%d %H:%M:%S %Z}")
        return " ".join(said)


def groups(chosen: Filter, limit: int = 50) -> list[dict[str, Any]]:
    """Return equal failures among the letters that match, the most frequent first.

    Each is ``{fingerprint, task, error_type, error_message, count, first_seen, last_seen}``;
    task, type and message are those of its latest letter.
    """
    counted = list(
        chosen.queryset()
        .order_by()
        .values("fingerprint")
        .annotate(count=Count("pk"), first_seen=Min("died_at"), last_seen=Max("died_at"))
        .order_by("-count", "fingerprint")[:limit]
    )
    latest: dict[str, dict[str, Any]] = {}
    wanted = Q(pk__in=[])
    for group in counted:
        wanted |= Q(fingerprint=group["fingerprint"], died_at=group["last_seen"])
    for sample in chosen.queryset().filter(wanted).values("fingerprint", "task", "error_type", "error_message"):
        latest.setdefault(sample["fingerprint"], dict(sample))
    # A letter may be closed between the two queries; its group is then gone with it.
    return [{**latest[group["fingerprint"]], **group} for group in counted if group["fingerprint"] in latest]


def _listed(ids: Any) -> Iterable[Any]:
    if isinstance(ids, str):
        return [part for part in ids.replace(",", " ").split() if part]
    return [ids] if isinstance(ids, uuid.UUID) else ids


def _letter_id(value: Any) -> str:
    try:
        return str(uuid.UUID(str(value)))
    except ValueError:
        raise InvalidOption(f"{value!r} is no id of a dead letter; ids look like {uuid.UUID(int=0)}.") from None


def _member(name: str, value: Any, known: list[str]) -> str:
    text = str(value)
    if not text or text in known:
        return text
    near = difflib.get_close_matches(text.lower().replace("-", "_").replace(" ", "_"), known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"give one of {', '.join(sorted(known))}."
    raise InvalidOption(f"{name}={text!r} is not known, {hint}")


def _moment(name: str, value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    parsed: Any = value
    if isinstance(value, str):
        try:
            parsed = parse_datetime(value) or parse_date(value)
        except ValueError:
            parsed = None
    if isinstance(parsed, date) and not isinstance(parsed, datetime):
        parsed = datetime.combine(parsed, time.min)
    if not isinstance(parsed, datetime):
        raise InvalidOption(f"{name}={value!r} is no time: give one such as 2026-01-31 or 2026-01-31T08:00+01:00.")
    return timezone.make_aware(parsed) if timezone.is_naive(parsed) else parsed
