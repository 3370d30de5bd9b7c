"""One connection on which a call may be sent before the one before it is answered.

So what nobody waits for costs no round trip: its answer is read with the next one.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import redis

from orchestrator.stores.redis.direct import opened, readable, say
from orchestrator.stores.redis.scripts import Script

logger = logging.getLogger("orchestrator.stores")

_Call = tuple[Script, Sequence[str], Sequence[Any]]
_wires: weakref.WeakSet[Wire] = weakref.WeakSet()


class Wire:
    """Safe for several threads and across forks. Errors are redis-py's."""

    def __init__(self, url: str, timeout: float) -> None:
        """Name the Redis; nothing is connected yet.

        Args:
            timeout: seconds that a call may take.
        """
        self._url = url
        self._timeout = timeout
        self._lock = threading.RLock()
        self._connection: Any = None
        self._pending: deque[_Call | None] = deque()
        self._loaded: set[str] = set()
        _wires.add(self)

    def tell(self, script: Script, *, keys: Sequence[str], args: Sequence[Any]) -> None:
        """Send a call and do not wait for its answer; it may never arrive."""
        with self._lock:
            self._repeat(self._send, (script, keys, args))

    def ask(self, script: Script, *, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Send a call and return its answer; repeated once on a fresh connection, so it must be repeatable."""
        with self._lock:
            return self._repeat(self._ask, (script, keys, args))

    def _repeat(self, do: Callable[[_Call], Any], call: _Call) -> Any:
        try:
            return do(call)
        except redis.ConnectionError:
            # The server was started again, or cut us off, since the last call.
            return do(call)

    def _ask(self, call: _Call) -> Any:
        self._send(call)
        while len(self._pending) > 1:
            self._read()
        try:
            try:
                return self._connection.read_response()
            except redis.exceptions.NoScriptError:
                say(self._connection, "EVAL", call[0].text, *call[1:])
                return self._connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            self._drop()
            raise
        finally:
            self._pending.clear()

    def _send(self, call: _Call) -> None:
        self._catch_up()
        if self._connection is None:
            self._connection = opened(self._url, self._timeout)
        script, keys, args = call
        try:
            if script.sha not in self._loaded:
                # Sent along: a call that nobody waits for could not be repeated with the text.
                self._pending.append(None)
                self._connection.send_command("SCRIPT", "LOAD", script.text)
                self._loaded.add(script.sha)
            # Counted before it is sent: an interrupt in between must not leave an answer that nobody expects.
            self._pending.append(call)
            say(self._connection, "EVALSHA", script.sha, keys, args)
        except BaseException:
            self._drop()
            raise

    def _catch_up(self) -> None:
        """Read answers that have come; notice a server that hung up, before a call is sent into the void."""
        while self._connection is not None and readable(self._connection):
            if not self._pending:
                self._drop()
                return
            try:
                self._read()
            except redis.ConnectionError:
                return

    def _read(self) -> None:
        """Read an answer that nobody waits for."""
        try:
            self._pending.popleft()
            self._connection.read_response()
        except redis.exceptions.NoScriptError:
            # The server forgot its scripts; what comes next brings them along again.
            self._loaded.clear()
        except redis.ResponseError as error:
            logger.warning("Redis refused what nobody waited for: %s", error)
        except BaseException:
            # Whatever cut it off, be it a time limit: answers that were not read would be taken for later ones.
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._pending.clear()
        self._loaded.clear()
        if connection is not None:
            connection.disconnect()

    def _forget(self) -> None:
        """Begin without a connection: a parent's belongs to the parent."""
        self._lock = threading.RLock()
        self._connection = None
        self._pending = deque()
        self._loaded = set()


def _forget_all() -> None:
    for wire in _wires:
        wire._forget()


os.register_at_fork(after_in_child=_forget_all)
