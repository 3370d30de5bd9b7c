"""Listens to the events that workers send, as Flower does."""

from __future__ import annotations

import threading
from typing import Any

from orchestrator.celery import get_app


class Watcher:
    """Collects progress reports in a thread of its own."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._progress: dict[str, list[int]] = {}
        self._receiver: Any = None
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()

    def start(self, timeout: float = 10.0) -> None:
        """Listen from now on; events sent before are not seen.

        Raises:
            TimeoutError: the broker does not let us listen.
        """
        self._thread = threading.Thread(target=self._listen, name="demo-events", daemon=True)
        self._thread.start()
        if not self._listening.wait(timeout):
            raise TimeoutError(f"No events can be received from the broker within {timeout:g} s.")

    def stop(self) -> None:
        """Stop listening."""
        if self._receiver is not None:
            self._receiver.should_stop = True
        if self._thread is not None:
            self._thread.join(timeout=5)

    def progress(self, task: str) -> dict[str, list[int]]:
        """Return the percentages seen for each run of a task, by task id, in order."""
        reports = list(self._progress.items())
        return {task_id: list(seen) for task_id, seen in reports if self._names.get(task_id) == task}

    def _listen(self) -> None:
        app = get_app()
        with app.connection_for_read() as connection:
            handlers = {"task-received": self._received, "task-progress": self._progressed}
            self._receiver = app.events.Receiver(connection, handlers=handlers)
            self._receiver.on_consume_ready = self._ready
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _ready(self, *_: Any, **__: Any) -> None:
        self._listening.set()

    def _received(self, event: dict[str, Any]) -> None:
        self._names[event["uuid"]] = event["name"]

    def _progressed(self, event: dict[str, Any]) -> None:
        self._progress.setdefault(event["uuid"], []).append(int(event["percent"]))
