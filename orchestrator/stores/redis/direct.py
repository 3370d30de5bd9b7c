"""A connection that is spoken to directly: what every task asks spares the client around it.

A client that encodes, checks out, observes and decodes generally costs twice what the call
itself does.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any

import redis

from orchestrator.stores.redis.client import client


def opened(url: str, timeout: float) -> Any:
    """Return a new connection.

    Args:
        timeout: seconds that connecting, and every reply, may take.
    Raises:
        redis.RedisError: the server could not be reached.
    """
    return opened_by(client(url, timeout).connection_pool)


def opened_by(pool: Any) -> Any:
    """Return a new connection made by a pool of redis-py's, which does not count on it.

    Raises:
        redis.RedisError: the server could not be reached.
    """
    made = pool.make_connection()
    made.connect()
    return made


def readable(connection: Any) -> bool:
    """Whether something can be read; where no answer is due that means that the server hung up.

    Asked before every call, so a plain socket is asked by one system call instead of redis-py's three and an exception.
    """
    sock = connection._sock
    if sock is None:
        return True
    try:
        if type(sock) is not socket.socket:
            return bool(connection.can_read(0))  # what TLS holds back only it knows
        waiting = select.poll()
        waiting.register(sock, select.POLLIN)
        return bool(waiting.poll(0))
    except (redis.RedisError, OSError):
        return True


def packed(*words: object) -> bytes:
    """Return a command as it is sent; redis-py's own way to do it takes several times as long."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if type(word) is bytes else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def say(connection: Any, command: str, script: str, keys: Sequence[str], args: Sequence[object]) -> None:
    """Send a call of a script; its answer is read with ``connection.read_response()``.

    Args:
        command: ``EVALSHA`` or ``EVAL``.
        script: its digest or its text.
    Raises:
        redis.RedisError: it cannot be known whether the server has it.
    """
    connection.send_packed_command([packed(command, script, len(keys), *keys, *args)], check_health=False)
