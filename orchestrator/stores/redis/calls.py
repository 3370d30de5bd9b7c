"""Scripts run on connections of their own: a call that every task makes spares the client around it.

A client that encodes, checks out, observes and decodes generally costs twice what the call itself
does. Connections are kept by process and server; one is used by one thread at a time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError

from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.scripts import Script

_idle: dict[tuple[str, float], deque[Any]] = {}


def call(url: str, timeout: float, script: Script, keys: Sequence[str], args: Sequence[object]) -> Any:
    """Run a script.

    Raises:
        redis.RedisError: the server could not be asked, or refused.
    """
    waiting = _idle.setdefault((url, timeout), deque())
    connection = _connected(waiting, url, timeout)
    try:
        try:
            found = _ask(connection, "EVALSHA", script.sha, keys, args)
        except NoScriptError:
            found = _ask(connection, "EVAL", script.text, keys, args)
    except redis.ResponseError:
        waiting.append(connection)
        raise
    except BaseException:
        # What is on its way to it would be taken for the answer to the next call.
        connection.disconnect()
        raise
    waiting.append(connection)
    return found


def _connected(waiting: deque[Any], url: str, timeout: float) -> Any:
    while waiting:
        try:
            connection = waiting.pop()
        except IndexError:
            break
        try:
            # A server that restarted hung up: that is something to read.
            if not connection.can_read(0):
                return connection
        except (redis.RedisError, OSError):
            pass
        connection.disconnect()
    made: Any = client(url, timeout).connection_pool.make_connection()
    made.connect()
    return made


def _ask(connection: Any, command: str, script: str, keys: Sequence[str], args: Sequence[object]) -> Any:
    parts = [b"*%d\r\n" % (3 + len(keys) + len(args))]
    for word in (command, script, len(keys), *keys, *args):
        data = word if type(word) is bytes else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    connection.send_packed_command([b"".join(parts)], check_health=False)
    return connection.read_response()


def _forget() -> None:
    """Drop what a parent process opened: two processes on one socket would mix up replies."""
    _idle.clear()


os.register_at_fork(after_in_child=_forget)
