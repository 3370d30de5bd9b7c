"""A message says whose it is, so that queues can be shared fairly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.fairness import KEY, WEIGHT, checked_weight, template
from orchestrator.contracts.keys import bound
from orchestrator.contracts.message import FAIRNESS, Publication
from orchestrator.contracts.policy import Policy
from orchestrator.contracts.templates import checked


class Fairness(Policy):
    """Writes tenant and weight into the header of messages that have a fairness key.

    Republications keep them. *Fails: open, it uses no store.*
    """

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Name the tenant.

        Raises:
            InvalidOption: key or weight cannot be made out of the arguments.
        """
        task, options = publication.task, publication.options
        declared = getattr(task, KEY, None)
        if KEY in options:
            given = checked(options.pop(KEY), f"{publication.name}: {KEY}")
            weight = checked_weight(options.pop(WEIGHT, 1), publication.name)
            publication.header[FAIRNESS] = _written(given, weight)
        elif declared and FAIRNESS not in publication.header:
            fits, arguments = bound(task.run, publication.args, publication.kwargs)
            if fits is not None:
                publication.header[FAIRNESS] = self._of(task, declared, arguments)
        return proceed(publication)

    @staticmethod
    def _of(task: Any, declared: str | Callable[..., str], arguments: dict[str, Any]) -> str:
        if callable(declared):
            key = checked(declared(**arguments), f"Task {task.name!r}: {KEY}")
        else:
            key = template(declared).fill(task.name, arguments)
        weight = getattr(task, WEIGHT, 1)
        return _written(key, checked_weight(weight(**arguments) if callable(weight) else weight, task.name))


def _written(key: str, weight: int) -> str:
    # Brokers look for it in the text of the message, so it holds nothing that JSON would escape.
    text = quote(key, safe="")
    if len(text) > LONGEST:
        raise InvalidOption(f"The fairness key {key[:40]!r} is too long once it is encoded ({len(text)}): use an id.")
    return f"{weight} {text}"


#: Characters of an encoded key.
LONGEST = 512
