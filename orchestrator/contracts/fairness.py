"""Fairness keys: whose a message is, and what share he has."""

from __future__ import annotations

from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.templates import Template, naming

#: Names of the options, of a task and of ``apply_async``.
KEY, WEIGHT = "fairness_key", "fairness_weight"
#: Largest weight: a thousand messages for one of a tenant of weight 1.
HEAVIEST = 1000


#: What a key without an argument would mean.
OTHERWISE = 'all calls would be one tenant\'s. Name one, as in "{tenant}".'


def template(text: str) -> Template:
    """Return a key's template; errors as for :func:`~orchestrator.contracts.templates.naming`."""
    return naming(KEY, text, OTHERWISE)


def checked_weight(weight: object, task: str) -> int:
    """Return a weight.

    Raises:
        InvalidOption: it is no whole number from 1 to :data:`HEAVIEST`.
    """
    if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= HEAVIEST:
        raise InvalidOption(f"Task {task!r}: {WEIGHT}={weight!r} must be a whole number from 1 to {HEAVIEST}.")
    return weight


def check_fairness(task: str, key: object, weight: object) -> None:
    """Refuse values that cannot work.

    Raises:
        InvalidOption: names the value.
    """
    if key is not None and not callable(key):
        if not isinstance(key, str) or not key.strip():
            raise InvalidOption(f'Task {task!r}: {KEY}={key!r} must be a template such as "{{tenant}}", or callable.')
        template(key)
    if not callable(weight):
        checked_weight(weight, task)
        if weight != 1 and key is None:
            raise InvalidOption(f"Task {task!r}: {WEIGHT}={weight!r} without a {KEY} does nothing.")


def named_tenant(key: object) -> Template | None:
    """Return the template that a task's arguments must be able to fill, if its key is one; errors as for its parse."""
    return template(key) if isinstance(key, str) else None
