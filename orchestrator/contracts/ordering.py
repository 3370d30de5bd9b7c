"""Ordering keys: messages that leave the outbox one after the other, as they were published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.keys import bound
from orchestrator.contracts.templates import Template, checked, naming

#: Name of the option, of a task and of ``apply_async``.
KEY = "ordering_key"


#: What a key without an argument would mean.
OTHERWISE = 'all calls would wait for one another. Name what they are about, as in "order:{order_id}".'


def template(text: str) -> Template:
    """Return a key's template; errors as for :func:`~orchestrator.contracts.templates.naming`."""
    return naming(KEY, text, OTHERWISE)


def check_ordering(task: str, key: object) -> None:
    """Refuse a declaration that cannot work.

    Raises:
        InvalidOption: names the value.
    """
    if key is None or callable(key):
        return
    if not isinstance(key, str) or not key.strip():
        raise InvalidOption(f'Task {task!r}: {KEY}={key!r} must be a template such as "{{order_id}}", or callable.')
    template(key)


def named_order(key: object) -> Template | None:
    """Return the template that a task's arguments must be able to fill, if its key is one; errors as for its parse."""
    return template(key) if isinstance(key, str) else None


def of_call(given: object, name: str, task: Any, args: Any, kwargs: Mapping[str, Any]) -> str:
    """Return the key of one call: the caller's, else what its task declares; empty for none.

    Args:
        given: the caller's option, None if there is none.
        task: the registered task, or None.

    Raises:
        InvalidOption: the key cannot be made, or is none.
    """
    if given is not None:
        # Ids are what people have at hand.
        plain = isinstance(given, int | UUID) and not isinstance(given, bool)
        return checked(str(given) if plain else given, f"{name}: {KEY}")
    declared = getattr(task, KEY, None)
    if declared is None:
        return ""
    fits, arguments = bound(task.run, args, kwargs)
    if fits is None:
        return ""
    if callable(declared):
        return checked(declared(**arguments), f"Task {name!r}: {KEY}")
    return template(declared).fill(name, arguments)
