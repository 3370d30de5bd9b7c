"""The consumer inside a child: what Celery puts off to the next turn of its loop happens at once here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.utils.imports import symbol_by_name


class ChildConsumer:
    """Mixed into the project's consumer class."""

    #: Told whenever the loop begins, at first and after every reconnect.
    on_loop: Callable[[Any], None]

    def register_with_event_loop(self, hub: Any) -> None:
        """A loop begins, which knows nothing of the one before."""
        super().register_with_event_loop(hub)  # type: ignore[misc]  # the mixin's other half has it
        self.on_loop(hub)

    def call_soon_ack(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now: the books are in this process, and the next task may begin in this very turn."""
        return call(*args, **kwargs)


def consumer_class(path: Any, on_loop: Callable[[Any], None]) -> type:
    """Return the consumer class of a child, by the class or path of the project's."""
    base = symbol_by_name(path)
    return type(base.__name__, (ChildConsumer, base), {"__module__": base.__module__, "on_loop": staticmethod(on_loop)})
