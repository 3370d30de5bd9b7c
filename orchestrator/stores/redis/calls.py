"""Scripts run on connections of their own, kept by process and server; one is used by one thread at a time.

What nobody waits for can be left here: the next call to the same server takes it along, ahead of
itself, in the same round trip.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.exceptions import NoScriptError

from orchestrator.stores.redis.direct import opened, opened_by, packed, readable, say
from orchestrator.stores.redis.scripts import Script

_idle: dict[tuple[Any, ...], deque[Any]] = {}
_left: dict[str, list[Left]] = {}
#: Digests of scripts that the server of a connection has.
_known: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, eq=False)
class Left:
    """A call that is made with another one. It may be made twice, so that must do no harm."""

    url: str
    timeout: float
    script: Script
    keys: Sequence[str]
    args: Sequence[object]
    #: Told the answer, or the error that the server refused with; False keeps the call for another try.
    heard: Callable[[Any], bool]
    #: Whether nothing that follows may be told before.
    vital: bool = False
    since: float = field(default_factory=time.monotonic)


def leave(call: Left) -> None:
    """Leave a call for the next one."""
    _left.setdefault(call.url, []).append(call)


def left() -> list[Left]:
    """Return what has been left and not been carried out, in order."""
    return [one for waiting in list(_left.values()) for one in waiting]


def send_left() -> None:
    """Make the calls that were left.

    Raises:
        redis.RedisError: a server could not be asked; its calls stay.
    """
    for url, waiting in list(_left.items()):
        if waiting:
            _call(opened, (url, waiting[0].timeout), list(waiting), None)


def call(url: str, timeout: float, script: Script, keys: Sequence[str], args: Sequence[object]) -> Any:
    """Run a script, after those that were left for this server.

    Raises:
        redis.RedisError: the server could not be asked, or refused.
    """
    waiting = _left.get(url)
    return _call(opened, (url, timeout), list(waiting) if waiting else (), (script, keys, args))


def call_after(pool: Any, before: Sequence[Left], script: Script, keys: Sequence[str], args: Sequence[object]) -> Any:
    """Run a script on a connection of somebody else's, after calls that were left for the same server.

    Args:
        pool: redis-py's, which makes the connection.
        before: of :func:`left`.

    Raises:
        redis.RedisError: the server could not be asked, or refused the script.
    """
    return _call(opened_by, (pool,), before, (script, keys, args))


def _call(
    make: Callable[..., Any],
    place: tuple[Any, ...],
    before: Sequence[Left],
    asked: tuple[Script, Any, Any] | None,
) -> Any:
    waiting = _idle.setdefault(place, deque())
    connection = _connected(waiting, make, place)
    try:
        calls = [(one.script, one.keys, one.args) for one in before]
        answers = _asked(connection, [*calls, asked] if asked else calls)
    except BaseException:
        # What is on its way to it would be taken for the answer to the next call.
        connection.disconnect()
        raise
    waiting.append(connection)
    for one, answer in zip(before, answers, strict=False):
        # Only now: whatever cuts a call off, an error or a time limit, what was left is not lost.
        if one.heard(answer):
            # Another thread may have made it as well.
            with suppress(ValueError):
                _left[one.url].remove(one)
    if asked is None:
        return None
    if isinstance(answers[-1], redis.ResponseError):
        raise answers[-1]
    return answers[-1]


def _asked(connection: Any, calls: Sequence[tuple[Script, Any, Any]]) -> list[Any]:
    """Make calls in one round trip; return their answers, or what the server refused them with."""
    known, words = _known.setdefault(connection, set()), []
    for script, keys, args in calls:
        if len(calls) == 1 or script.sha in known:
            words.append(packed("EVALSHA", script.sha, len(keys), *keys, *args))
        else:
            # With its text: had the server to be told that later, what follows would be carried out before it.
            words.append(packed("EVAL", script.text, len(keys), *keys, *args))
        known.add(script.sha)
    connection.send_packed_command([b"".join(words)], check_health=False)
    answers = [_answer(connection) for _ in calls]
    for at, answer in enumerate(answers):
        if isinstance(answer, NoScriptError):
            # It may have forgotten all of them: those it does not have must not be overtaken by those it has again.
            _known.clear()
            script, keys, args = calls[at]
            say(connection, "EVAL", script.text, keys, args)
            answers[at] = _answer(connection)
    return answers


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _connected(waiting: deque[Any], make: Callable[..., Any], place: tuple[Any, ...]) -> Any:
    while waiting:
        try:
            connection = waiting.pop()
        except IndexError:
            break
        if not readable(connection):
            return connection
        connection.disconnect()
    return make(*place)


def _forget() -> None:
    """Drop what a parent process opened and left: two processes on one socket would mix up replies."""
    _idle.clear()
    _left.clear()


os.register_at_fork(after_in_child=_forget)
