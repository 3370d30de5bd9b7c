"""Names made out of a call's arguments, such as ``"tenant:{tenant}"``: parsed at import, filled for each call."""

from __future__ import annotations

import inspect
import string
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any
from uuid import UUID

from orchestrator.contracts.errors import InvalidOption, UnknownOption

#: What a name may be made of: values that read the same before and after the wire.
PLAIN = (str, int, float, Decimal, UUID, date, datetime, time)
#: Characters of a filled template: as many as payment providers take for a key.
LONGEST = 255


class Template(string.Formatter):
    """A text with the names of arguments in braces.

    Args:
        text: ``"{account}"``, or ``"{order[id]}"`` for an item of one.
        where: what it is, for messages, as in ``"RateLimit('stripe', key='{account}')"``.

    Raises:
        InvalidOption: it does not parse, counts positions or reaches into attributes.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        try:
            fields = [field for _, field, _, _ in self.parse(text) if field is not None]
        except ValueError as error:
            raise InvalidOption(f"{where} does not parse: {error}.") from error
        #: The arguments that it names.
        self.names = [field.partition("[")[0] for field in fields]
        for name, field in zip(self.names, fields, strict=True):
            if not name.isidentifier():
                raise InvalidOption(
                    f"{where}: {{{field}}} must name an argument, as in {{order_id}}, or an item of one, as in "
                    "{order[id]}."
                )

    def check(self, task: str, parameters: Iterable[inspect.Parameter], sensitive: Iterable[str]) -> None:
        """Refuse names that a task's signature does not have; errors as for :func:`check_names`."""
        check_names(self.names, self.where, task, parameters, sensitive)

    def fill(self, task: str, arguments: Mapping[str, Any]) -> str:
        """Return the text for one call.

        Raises:
            InvalidOption: an argument names nothing: it is missing, empty, None, or no plain value.
        """
        if not self.names:
            return self.text
        try:
            return checked(self.vformat(self.text, (), arguments), f"Task {task!r}: {self.where}")
        except (LookupError, TypeError) as error:
            raise InvalidOption(
                f"Task {task!r}: {self.where} cannot be filled ({type(error).__name__}: {error})."
            ) from error

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        """Look an argument up; only plain values name something."""
        value, first = super().get_field(field_name, args, kwargs)
        if not isinstance(value, PLAIN) or value == "":
            raise InvalidOption(
                f"{self.where} got {field_name}={value!r}, which names nothing. "
                "Give text, a number, a date or a UUID that is not empty, or use a callable."
            )
        return value, first


def check_names(
    names: Iterable[str], kind: str, task: str, parameters: Iterable[inspect.Parameter], sensitive: Iterable[str]
) -> None:
    """Refuse a template that a task's signature cannot fill, or that would show what is secret.

    Args:
        kind: what is declared, as in ``the idempotency key '…'``.

    Raises:
        UnknownOption: it names an argument that the task does not have.
        InvalidOption: it names a sensitive one.
    """
    parameters = list(parameters)
    known = [p.name for p in parameters]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in names:
        if name in sensitive:
            raise InvalidOption(
                f"Task {task!r}: {kind} names {name!r}, which is sensitive, and keys are shown to people. "
                "Name another argument, or give a callable that returns a digest."
            )
        if name not in known and not takes_any:
            raise UnknownOption.among(name, known, f"{kind} of task {task!r}")


def checked(name: Any, where: str) -> str:
    """Return a name.

    Raises:
        InvalidOption: it is no text, empty, too long, or has characters that nobody can see.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidOption(f"{where} gave {name!r}; give a text that is not empty.")
    if len(name) > LONGEST or not name.isprintable():
        raise InvalidOption(
            f"{where} gave {len(name)} characters, {name[:40]!r}; give at most {LONGEST}, all of them printable."
        )
    return name


@cache
def naming(option: str, text: str, otherwise: str) -> Template:
    """Return the template of an option that has to name an argument.

    Args:
        otherwise: what it would mean if it named none, and what to write instead, for the message.

    Raises:
        InvalidOption: it cannot work.
    """
    made = Template(text, f"{option}={text!r}")
    if not made.names:
        raise InvalidOption(f"{option}={text!r} names no argument, so {otherwise}")
    return made
