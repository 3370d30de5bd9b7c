"""Scripts run on connections of their own, kept by process and server; one is used by one thread at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError

from orchestrator.stores.redis.direct import opened, readable, say
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
            say(connection, "EVALSHA", script.sha, keys, args)
            found = connection.read_response()
        except NoScriptError:
            say(connection, "EVAL", script.text, keys, args)
            found = connection.read_response()
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
        if not readable(connection):
            return connection
        connection.disconnect()
    return opened(url, timeout)


def _forget() -> None:
    """Drop what a parent process opened: two processes on one socket would mix up replies."""
    _idle.clear()


os.register_at_fork(after_in_child=_forget)
