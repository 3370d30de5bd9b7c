"""The consumer inside a child: what Celery puts off to the next turn of its loop happens at once here."""

from __future__ import annotations

from functools import cache
from typing import Any

from kombu.utils.imports import symbol_by_name


class ChildConsumer:
    """Mixed into the project's consumer class."""

    def call_soon_ack(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now: the books are in this process, and the next task may begin in this very turn."""
        return call(*args, **kwargs)


@cache
def consumer_class(path: Any) -> type:
    """Return the consumer class of a child, by the class or path of the project's."""
    base = symbol_by_name(path)
    return type(base.__name__, (ChildConsumer, base), {"__module__": base.__module__})
