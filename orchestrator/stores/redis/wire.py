"""One connection on which a call may be sent before the one before it is answered.

So what nobody waits for costs no round trip: its answer is read with the next one.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import redis

from orchestrator.stores.redis.client import client
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
        self._pending: list[_Call | None] = []
        self._loaded: set[str] = set()
        _wires.add(self)

    def tell(self, script: Script, *, keys: Sequence[str], args: Sequence[Any]) -> None:
        """Send a call and do not wait for its answer; it may never arrive."""
        with self._lock:
            self._send((script, keys, args))

    def ask(self, script: Script, *, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Send a call and return its answer; repeated once on a fresh connection, so it must be repeatable."""
        with self._lock:
            call = (script, keys, args)
            try:
                return self._ask(call)
            except redis.ConnectionError:
                # The server was started again, or cut us off, since the last call.
                return self._ask(call)

    def _ask(self, call: _Call) -> Any:
        self._send(call)
        connection = self._connection
        pending, self._pending = self._pending, []
        answer: Any = None
        try:
            for one in pending:
                try:
                    answer = connection.read_response()
                except redis.exceptions.NoScriptError:
                    answer = None
                    if one is call:
                        connection.send_command("EVAL", call[0].text, len(call[1]), *call[1], *call[2])
                        answer = connection.read_response()
                except redis.ResponseError as error:
                    if one is call:
                        raise
                    logger.warning("Redis refused what nobody waited for: %s", error)
            return answer
        except redis.ResponseError:
            raise  # the answer to the last call: all are read
        except BaseException:
            # Whatever cut it off, be it a time limit: answers that were not read would be taken for later ones.
            self._drop()
            raise

    def _send(self, call: _Call) -> None:
        if self._connection is None:
            self._connection = client(self._url, self._timeout).connection_pool.get_connection()
        script, keys, args = call
        try:
            if script.sha not in self._loaded:
                # Sent along: a call that nobody waits for could not be repeated with the text.
                self._connection.send_command("SCRIPT", "LOAD", script.text)
                self._loaded.add(script.sha)
                self._pending.append(None)
            self._connection.send_command("EVALSHA", script.sha, len(keys), *keys, *args)
        except BaseException:
            self._drop()
            raise
        self._pending.append(call)

    def _drop(self) -> None:
        connection, self._connection, self._pending = self._connection, None, []
        self._loaded.clear()
        if connection is not None:
            connection.disconnect()
            client(self._url, self._timeout).connection_pool.release(connection)

    def _forget(self) -> None:
        """Begin without a connection: a parent's belongs to the parent."""
        self._lock = threading.RLock()
        self._connection = None
        self._pending = []
        self._loaded = set()


def _forget_all() -> None:
    for wire in _wires:
        wire._forget()


os.register_at_fork(after_in_child=_forget_all)
