"""Task events of a child: built cheaply and sent together, because every task has three.

A thread sends what has gathered: the child's own loop stands still while a task runs,
and whoever watches wants to see it run.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import Any

from celery.utils.time import utcoffset

#: Seconds for which events gather at most.
GATHER = 0.02
#: How many are sent together at most. One message to the broker costs as much as several tasks.
TOGETHER = 120


class Gatherer:
    """One a child, for whichever dispatcher it has after its last reconnect."""

    def __init__(self) -> None:
        self._dispatcher: Any = None
        self._wanted = threading.Event()

    def take(self, dispatcher: Any) -> None:
        """Let a dispatcher of Celery's gather more task events, and make them with less effort."""
        if self._dispatcher is None:
            threading.Thread(target=self._run, name="orchestrator-events", daemon=True).start()
        self._dispatcher = dispatcher
        dispatcher.buffer_limit = TOGETHER
        dispatcher.on_send_buffered = self._wanted.set
        dispatcher.send = self._sender(dispatcher)

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            time.sleep(GATHER)
            self._wanted.clear()
            # What it cannot send, it keeps for the next time.
            with suppress(Exception):
                self._dispatcher.flush()

    def _sender(self, dispatcher: Any) -> Any:
        stock, wanted = dispatcher.send, self._wanted
        buffer = dispatcher._group_buffer["task"]
        common = {"hostname": dispatcher.hostname, "pid": os.getpid(), "utcoffset": utcoffset()}
        forward = dispatcher.clock.forward

        def send(type: str, blind: bool = False, **fields: Any) -> Any:
            if type[:5] != "task-":
                return stock(type, blind, **fields)
            if not dispatcher.enabled or (dispatcher.groups and "task" not in dispatcher.groups):
                return None
            fields.pop("retry", None)
            buffer.append({"type": type, "timestamp": time.time(), "clock": forward(), **common, **fields})
            if len(buffer) >= TOGETHER:
                # Summer may have begun since.
                common["utcoffset"] = utcoffset()
                dispatcher.flush()
            elif not wanted.is_set():
                wanted.set()
            return None

        return send
