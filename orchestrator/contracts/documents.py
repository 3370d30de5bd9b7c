"""JSON between a person and us: what they typed is parsed strictly, what they read can always be shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from orchestrator.contracts.errors import InvalidOption

#: Characters of a broken document that its message quotes.
QUOTED = 40

#: kind -> what it is called, with an example.
KINDS: dict[type, str] = {list: 'a list, such as [1, "two"]', dict: 'an object, such as {"amount": 3}'}


def legible(document: str) -> str:
    """Return a JSON document as text that a page or a file can hold.

    JSON may carry half of a surrogate pair, which no page can: it is written as its escape, which means the same.
    """
    return document.encode("utf-8", "backslashreplace").decode("utf-8")


def parse_document(text: str, kind: type, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Return the parsed document.

    Args:
        text: as typed.
        kind: ``list`` or ``dict``.
        object_hook: as in :func:`json.loads`.

    Raises:
        InvalidOption: it is empty, does not parse (with line and column), names a key twice, or is of another kind.
    """
    wanted = KINDS[kind]

    def once(pairs: list[tuple[str, Any]]) -> Any:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
        return object_hook(made) if object_hook else made

    if not text.strip():
        raise InvalidOption(f"Empty: give {wanted}.")
    try:
        parsed = json.loads(text, object_pairs_hook=once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidOption(f"Broken JSON at {place}: {error.msg}, near {_near(text, error.pos)}.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidOption(f"This JSON cannot be read: {error}.") from error
    if not isinstance(parsed, kind):
        raise InvalidOption(f"This is {_name_of(parsed)}: give {wanted}.")
    return parsed


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _near(text: str, position: int) -> str:
    part = text[max(0, position - 1) : position + QUOTED].split("\n", maxsplit=1)[0]
    return repr(part) if part.strip() else "the end of the line before"


def _name_of(value: Any) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
