"""The consumer inside a child: what Celery puts off to the next turn of its loop happens at once here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.utils.imports import symbol_by_name

from orchestrator.engine.consumer import malformed
from orchestrator.engine.swarm.gathering import Gatherer


class ChildConsumer:
    """Mixed into the project's consumer class."""

    #: Told whenever the loop begins, at first and after every reconnect.
    on_loop: Callable[[Any], None]
    #: Told before a message becomes a task.
    before_task: Callable[[], None]
    gatherer: Gatherer

    app: Any
    event_dispatcher: Any
    strategies: Any
    on_task_message: Any

    def register_with_event_loop(self, hub: Any) -> None:
        """A loop begins, which knows nothing of the one before."""
        super().register_with_event_loop(hub)  # type: ignore[misc]  # the mixin's other half has it
        self.on_loop(hub)

    def update_strategies(self) -> None:
        """Leave out the line "received": here a task is received when it starts, and its end has a line."""
        if self.event_dispatcher is not None:
            # Before the strategies take hold of its method.
            self.gatherer.take(self.event_dispatcher)
        lines = logging.getLogger("celery.worker.strategy")
        before = lines.level
        if lines.getEffectiveLevel() > logging.DEBUG:
            lines.setLevel(logging.WARNING)
        try:
            super().update_strategies()  # type: ignore[misc]
        finally:
            lines.setLevel(before)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Acknowledge in the same moment: the books are in this process, and the next task begins in this very turn."""
        other = super().create_task_handler(*args, **kwargs)  # type: ignore[misc]
        find, callbacks = self.strategies.__getitem__, self.on_task_message
        refuse, undecodable = self.on_invalid_task, self.on_decode_error  # type: ignore[attr-defined]

        before_task = self.before_task

        def on_task_received(message: Any) -> Any:
            before_task()
            try:
                strategy = find(message.headers["task"])
            except (KeyError, TypeError):
                return other(message)
            problem = malformed(message)
            if problem is not None:
                return refuse(None, message, problem)
            try:
                return strategy(message, None, message.ack_log_error, message.reject_log_error, callbacks)
            except (InvalidTaskError, ContentDisallowed) as error:
                return refuse(None, message, error)
            except DecodeError as error:
                return undecodable(message, error)

        return on_task_received

    def call_soon_ack(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge now, as above."""
        return call(*args, **kwargs)


def consumer_class(path: Any, on_loop: Callable[[Any], None], before_task: Callable[[], None]) -> type:
    """Return the consumer class of a child, by the class or path of the project's."""
    base = symbol_by_name(path)
    members = {
        "__module__": base.__module__,
        "on_loop": staticmethod(on_loop),
        "before_task": staticmethod(before_task),
        "gatherer": Gatherer(),
    }
    return type(base.__name__, (ChildConsumer, base), members)
