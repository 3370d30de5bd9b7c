"""Keys made out of a call's arguments: templates, what may stand in them, and what a call's arguments are."""

from __future__ import annotations

import hashlib
import inspect
import json
import string
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from orchestrator.contracts.errors import InvalidOption, UnknownOption

#: Characters of a key: as many as payment providers take.
LONGEST_KEY = 255
#: What a key may be made of: values that read the same before and after the wire.
PLAIN = (str, int, float, Decimal, UUID, date, datetime, time)

Key = str | Callable[..., str]


def names_in(template: str, where: str) -> list[str]:
    """Return the arguments that a template names.

    Args:
        where: who is told, as in ``Idempotent(key='…')``.

    Raises:
        InvalidOption: the template does not parse, counts positions or reaches into attributes.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise InvalidOption(f"{where} does not parse: {error}.") from error
    names = []
    for field in fields:
        name = field.partition("[")[0]
        if not name.isidentifier():
            raise InvalidOption(
                f"{where}: {{{field}}} must name an argument, "
                "as in {order_id}, or an item of one, as in {order[id]}."
            )
        names.append(name)
    return names


def check_template(template: Any, where: str, example: str) -> None:
    """Refuse what can be no template of a key.

    Raises:
        InvalidOption: it is no text, is empty, or names no argument.
    """
    if not isinstance(template, str) or not template.strip():
        raise InvalidOption(f"{where}: give a template, such as {example}.")
    if not names_in(template, where):
        raise InvalidOption(
            f"{where} names no argument, so all calls would count as one. "
            f"Name what tells them apart, as in key={example}."
        )


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


def filled(template: str, kind: str, task: str, arguments: Mapping[str, Any]) -> str:
    """Return a template with a call's arguments in it.

    Raises:
        InvalidOption: an argument that it names cannot name anything, or is not there.
    """
    try:
        return _Plain(f"Task {task!r}: {kind}").vformat(template, (), arguments)
    except (LookupError, TypeError) as error:
        raise InvalidOption(f"Task {task!r}: {kind} cannot be filled ({type(error).__name__}: {error}).") from error


class _Plain(string.Formatter):
    """Fills a template with plain values only."""

    def __init__(self, where: str) -> None:
        self._where = where

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, first = super().get_field(field_name, args, kwargs)
        if not isinstance(value, PLAIN) or value == "":
            raise InvalidOption(
                f"{self._where} got {field_name}={value!r}, which names nothing. "
                "Give text, a number, a date or a UUID that is not empty, or use key=<callable>."
            )
        return value, first


def checked(key: Any, kind: str, task: str, instead: str) -> str:
    """Return a key.

    Args:
        kind: as in ``an idempotency key``.
        instead: what to do where there is none.

    Raises:
        InvalidOption: it is no text, empty, too long, or has characters that nobody can see.
    """
    name = kind.partition(" ")[2]
    if not isinstance(key, str) or not key.strip():
        raise InvalidOption(
            f'Task {task!r}: {key!r} is no {name}. Give a text that is not empty, such as "payment-1042"; {instead}.'
        )
    if len(key) > LONGEST_KEY or not key.isprintable():
        raise InvalidOption(
            f"Task {task!r}: {kind} has at most {LONGEST_KEY} printable characters, this one has "
            f"{len(key)}: {key[:40]!r}. Use ids instead of contents, or a digest."
        )
    return key


def fingerprint(arguments: Mapping[str, Any]) -> str:
    """Return what tells calls with other arguments apart; reveals none of them."""
    text = json.dumps(arguments, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def bound(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return a call's arguments by parameter, defaults filled in, and the same with ``**`` members spread out.

    Returns:
        None and nothing if the call does not fit: the body would not start either, and says so better.
    """
    signature = _signature(function)
    try:
        call = signature.bind(*args, **kwargs)
    except TypeError:
        return None, {}
    call.apply_defaults()
    arguments = call.arguments
    more: Mapping[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            more = arguments[name]
    return arguments, {**more, **arguments}


@lru_cache(maxsize=4096)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)
