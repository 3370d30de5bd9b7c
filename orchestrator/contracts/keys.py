"""Keys made out of a call's arguments: templates, what may stand in them, and what a call's arguments are."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.templates import LONGEST as LONGEST_KEY
from orchestrator.contracts.templates import Template, check_names

Key = str | Callable[..., str]


def names_in(template: str, where: str) -> list[str]:
    """Return the arguments that a template names.

    Args:
        where: who is told, as in ``Idempotent(key='…')``.

    Raises:
        InvalidOption: the template does not parse, counts positions or reaches into attributes.
    """
    return Template(template, where).names


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


def filled(template: str, kind: str, task: str, arguments: Mapping[str, Any]) -> str:
    """Return a template with a call's arguments in it.

    Raises:
        InvalidOption: an argument that it names cannot name anything, or is not there.
    """
    try:
        return _parsed(template, f"Task {task!r}: {kind}").vformat(template, (), arguments)
    except (LookupError, TypeError) as error:
        raise InvalidOption(f"Task {task!r}: {kind} cannot be filled ({type(error).__name__}: {error}).") from error


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
def _parsed(template: str, where: str) -> Template:
    return Template(template, where)


@lru_cache(maxsize=4096)
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


__all__ = [
    "LONGEST_KEY",
    "Key",
    "bound",
    "check_names",
    "check_template",
    "checked",
    "filled",
    "fingerprint",
    "names_in",
]
