"""The supervisor's line to the broker: remote control in, the worker's own events out, leases of children renewed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery.utils.collections import AttributeDict
from celery.utils.functional import pass1
from celery.utils.sysinfo import load_average
from celery.worker.state import SOFTWARE_INFO
from kombu.common import ignore_errors
from kombu.exceptions import OperationalError

from orchestrator.transport.steward import ERRORS, Steward

logger = logging.getLogger("orchestrator.engine")

#: Seconds between two heartbeat events, as in Celery.
HEARTBEAT = 2.0
#: Shortest and longest pause before another try to connect, in seconds.
AGAIN, AGAIN_MOST = 0.5, 5.0


class Post:
    """One connection, opened again whenever it breaks; nothing here raises because the broker is away.

    *Fails: open for events and remote control, which nobody hears meanwhile. What must
    reach the broker, such as the return of a dead child's messages, its caller repeats.*
    """

    def __init__(self, app: Any, hostname: str, hub: Any, handlers: dict[str, Any], facade: Any) -> None:
        """Prepare; :meth:`connect` opens.

        Args:
            handlers: remote control commands by name.
            facade: what stands where those commands expect Celery's consumer.
        """
        self._app = app
        self._hostname = hostname
        self._hub = hub
        self._handlers = handlers
        self._facade = facade
        self._connection: Any = None
        self._pause = AGAIN
        #: What the loop raises when the connection breaks.
        self.errors: tuple[type[Exception], ...] = (
            *app.connection_for_read().connection_errors,
            OperationalError,
            *ERRORS,
        )
        self.steward: Steward | None = None
        self.dispatcher: Any = None
        #: Returns what a heartbeat says: tasks that run, and tasks done so far.
        self.counts: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def connect(self) -> None:
        """Connect now, or again later if that fails."""
        before = set(self._hub.timer.queue)
        try:
            connection = self._connection = self._app.connection_for_read()
            # Once: who waits here for a broker keeps no time limits.
            connection.ensure_connection(max_retries=0)
            connection.transport.register_with_event_loop(connection.connection, self._hub)
            channel = connection.default_channel
            self.steward = Steward.on(channel)
            self.dispatcher = self._app.events.Dispatcher(connection, hostname=self._hostname, enabled=True)
            self._listen(connection)
            self.event("worker-online")
        except self.errors as error:
            self._timers_since(before)
            self.lost(error)
            return
        self._timers = set(self._hub.timer.queue) - before
        self._pause = AGAIN

    def lost(self, error: BaseException) -> None:
        """Drop a connection that broke, and connect again after a pause."""
        logger.warning("The supervisor cannot talk to the broker, tries again in %g s: %s", self._pause, error)
        self._drop()
        self._hub.call_later(self._pause, self.connect)
        self._pause = min(AGAIN_MOST, self._pause * 2)

    def guarded(self, call: Callable[[Steward], Any]) -> Any:
        """Ask the broker for something; None if it cannot be asked now."""
        if self.steward is None:
            return None
        try:
            return call(self.steward)
        except self.errors as error:
            self.lost(error)
            return None

    def event(self, kind: str) -> None:
        """Send an event of the worker itself."""
        if self.dispatcher is None:
            return
        active, processed = self.counts()
        with suppress(*self.errors):
            self.dispatcher.send(
                kind, freq=HEARTBEAT, active=active, processed=processed, loadavg=load_average(), **SOFTWARE_INFO
            )

    def info(self) -> dict[str, Any]:
        """Return what the connection is, without secrets, as ``inspect stats`` shows it."""
        if self._connection is None:
            return {}
        known: dict[str, Any] = self._connection.info()
        known.pop("password", None)
        return known

    def close(self) -> None:
        """Say goodbye and close."""
        self.event("worker-offline")
        self._drop()

    # --- details ----------------------------------------------------------------------

    _timers: set[Any] = frozenset()  # type: ignore[assignment]

    def _listen(self, connection: Any) -> None:
        if not (self._app.conf.worker_enable_remote_control and connection.supports_exchange_type("fanout")):
            return
        state = AttributeDict(app=self._app, hostname=self._hostname, consumer=self._facade, tset=pass1)
        node = self._app.control.mailbox.Node(self._hostname, handlers=self._handlers, state=state)
        node.channel = connection.channel()

        def on_message(body: Any, message: Any) -> None:
            self._app.clock.forward()
            try:
                node.handle_message(body, message)
            except KeyError as error:
                logger.error("No such control command: %s", error)

        node.listen(callback=on_message)

    def _timers_since(self, before: set[Any]) -> None:
        self._timers = set(self._hub.timer.queue) - before

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self.steward = self.dispatcher = None
        for scheduled in self._timers:
            self._hub.timer.cancel(scheduled.entry)
        self._timers = set()
        if connection is not None:
            ignore_errors(connection, connection.collect)
            ignore_errors(connection, connection.close)
