"""Sensitive values appear nowhere outside the payload."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.message import Attempt, Publication
from orchestrator.contracts.policy import Parts, Policy

MASK = "[redacted]"
#: Values shorter than this are not searched for in texts: "1" would mask every digit one.
SHORTEST = 4

_PLAIN = (str, int, float, bool, type(None))

_short = reprlib.Repr()
_short.maxlevel = 4
_short.maxdict = _short.maxlist = _short.maxtuple = 40
_short.maxstring = _short.maxother = 200


@dataclass(frozen=True, slots=True)
class Plan:
    """Which arguments of one task are sensitive."""

    names: frozenset[str]
    #: Position -> whether sensitive, as far as the signature names positions.
    positions: tuple[bool, ...]

    @property
    def empty(self) -> bool:
        """Whether no parameter of the signature is sensitive."""
        return not any(self.positions)


class Redaction(Policy):
    """Masks what headers, events, logs, results and the inbox show of arguments.

    At publish it replaces Celery's argument texts; at execution it takes the
    sensitive values out of an error's message, because results and logs quote it.
    *Fails: open, it uses no store.*
    """

    def __init__(self, redacted_names: Iterable[str] = ()) -> None:
        self.redacted_names = frozenset(name.lower() for name in redacted_names)
        self._plans: dict[str, Plan] = {}

    @classmethod
    def build(cls, parts: Parts) -> Redaction:
        """Take the names that are sensitive in every task."""
        return cls(parts.redacted_names)

    def plan(self, task: Any) -> Plan:
        """Return which arguments of ``task`` are sensitive, worked out once."""
        if task is None:
            return Plan(frozenset(), ())
        plan = self._plans.get(task.name)
        if plan is None:
            declared = frozenset(getattr(task, "sensitive", ()))
            try:
                parameters = list(inspect.signature(task.run).parameters.values())
            except (TypeError, ValueError):
                parameters = []
            positions = tuple(
                p.name in declared or p.name.lower() in self.redacted_names
                for p in parameters
                if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
            )
            plan = self._plans[task.name] = Plan(declared, positions)
        return plan

    def masked(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return copies of the arguments with every sensitive value replaced."""
        plan = self.plan(task)
        positions = plan.positions
        clean_args = [
            MASK if number < len(positions) and positions[number] else self._clean(value)
            for number, value in enumerate(args)
        ]
        clean_kwargs = {
            key: MASK if key in plan.names or str(key).lower() in self.redacted_names else self._clean(value)
            for key, value in kwargs.items()
        }
        return clean_args, clean_kwargs

    def reprs(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[str, str]:
        """Return bounded texts of the masked arguments."""
        clean_args, clean_kwargs = self.masked(task, args, kwargs)
        return _short.repr(tuple(clean_args)), _short.repr(clean_kwargs)

    def secrets(self, task: Any, args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[str]:
        """Return the texts of all sensitive values, longest first."""
        found: set[str] = set()
        plan = self.plan(task)
        for number, value in enumerate(args):
            self._collect(value, number < len(plan.positions) and plan.positions[number], found)
        for key, value in kwargs.items():
            self._collect(value, key in plan.names or str(key).lower() in self.redacted_names, found)
        return sorted(found, key=len, reverse=True)

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Replace the argument texts where something sensitive may be among them."""
        args, kwargs = publication.args, publication.kwargs
        if args or kwargs:
            plan = self.plan(publication.task)
            if (
                not plan.empty
                or (kwargs and not self.redacted_names.isdisjoint(map(str.lower, kwargs)))
                or not all(type(value) in _PLAIN for value in args)
                or not all(type(value) in _PLAIN for value in kwargs.values())
            ):
                texts = self.reprs(publication.task, args, kwargs)
                publication.options["argsrepr"], publication.options["kwargsrepr"] = texts
        return proceed(publication)

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Only tasks that have sensitive parameters."""
        plan = self.plan(task)
        return bool(plan.names) or not plan.empty

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Run the body; an error leaves without the sensitive values in its text."""
        try:
            return proceed(attempt)
        except Exception as error:
            scrub(error, self.secrets(attempt.task, attempt.args, attempt.kwargs))
            raise

    def _clean(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {
                key: MASK if str(key).lower() in self.redacted_names else self._clean(item)
                for key, item in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._clean(item) for item in value]
        return value

    def _collect(self, value: Any, sensitive: bool, found: set[str]) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._collect(item, sensitive or str(key).lower() in self.redacted_names, found)
        elif isinstance(value, list | tuple):
            for item in value:
                self._collect(item, sensitive, found)
        elif sensitive and value is not None and not isinstance(value, bool) and len(str(value)) >= SHORTEST:
            found.add(str(value))


def cover(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` with every secret masked, also as a ``repr``, or a ``repr`` of that, shows it."""
    for secret in secrets:
        for form in _forms(secret):
            text = text.replace(form, MASK)
    return text


def _forms(secret: str) -> list[str]:
    """Return a secret and its escaped spellings; which quote is escaped depends on the text around it."""
    forms = {secret: None}
    for _ in range(2):
        for form in list(forms):
            escaped = "".join("'" if letter == "'" else repr(letter)[1:-1] for letter in form)
            forms.update({escaped: None, escaped.replace("'", "\\'"): None})
    return sorted(forms, key=len, reverse=True)


def scrub(error: BaseException, secrets: list[str]) -> None:
    """Mask secrets in the arguments and string attributes of an error and its causes, in place."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error] if secrets else []
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        current.args = tuple(_covered(argument, secrets) for argument in current.args)
        for name, value in list(vars(current).items()):
            if isinstance(value, str):
                setattr(current, name, cover(value, secrets))
        notes = getattr(current, "__notes__", None)
        if notes:
            current.__notes__ = [cover(note, secrets) for note in notes]
        pending += [current.__cause__, current.__context__]
        pending += getattr(current, "exceptions", ())


def _covered(argument: Any, secrets: list[str]) -> Any:
    if isinstance(argument, str):
        return cover(argument, secrets)
    text = repr(argument)
    covered = cover(text, secrets)
    return covered if covered != text else argument
