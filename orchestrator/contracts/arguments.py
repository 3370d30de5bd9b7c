"""A call's arguments by name, as the task's function receives them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


class Arguments:
    """Binds calls to the signatures of tasks, each of which is read once."""

    def __init__(self) -> None:
        self._signatures: dict[Any, inspect.Signature] = {}

    def of(self, task: Any, args: Any, kwargs: Any) -> dict[str, Any] | None:
        """Return arguments by name, defaults filled in, a ``**`` parameter's members among them.

        Returns:
            None if they do not fit: the body would not start either, and says so better.
        """
        signature = self._signatures.get(task)
        if signature is None:
            signature = self._signatures[task] = inspect.signature(task.run)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        more: Mapping[str, Any] = {}
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                more = bound.arguments[name]
        return {**more, **bound.arguments}
