"""Publishing so that it can be repeated: a message that got no answer is not sent twice, and never late.

Every connection that publishes has a record in the broker, with the number of its last
call that was carried out; the same script that stores a message writes it. When a call
gets no answer, its ids are noted here. Whoever publishes one of them again in this
process asks the record first: the call was carried out, or it is shut out for good,
even where it still lies in the buffer of a server that hung.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import redis

from orchestrator.stores.redis.scripts import Script
from orchestrator.transport.keys import MARKER_MS, Keys

#: Seconds for which a call that got no answer can be asked about.
REMEMBERED = 600
#: Seconds for which a successor is not published a second time: what it follows comes back within a lease, and then
#: has to wait and to run again. A key takes a hundred bytes.
ONCE = 1800
#: Ids noted at most; older ones are forgotten first.
_MOST = 100_000

_PACKAGE = "orchestrator.transport.scripts"
publish_script = Script("sender", "publish", package=_PACKAGE)
delay_script = Script("sender", "delay", package=_PACKAGE)
many_script = Script("sender", "publish_many", package=_PACKAGE)
_settle = Script("settle", package=_PACKAGE)

#: Errors of a connection that broke.
BROKEN = (redis.ConnectionError, redis.TimeoutError, OSError)


class Shut(redis.ConnectionError):
    """A call came so late that it had been given up; it was not carried out."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one sender."""

    record: str
    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A message as it is stored.

    ``list`` is where it goes; with ``delay_ms``, when that has passed, and under ``name`` until then.
    """

    task_id: str
    list: str
    text: str
    name: str = ""
    delay_ms: int = 0


class Sender:
    """Numbers the calls of one connection. Not for several threads at once."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.renew()

    def renew(self) -> None:
        """Take a new name: a sender has at most one call of which nothing is known."""
        self.record = self._keys.sender(uuid.uuid4().hex)
        self._number = 0

    def call(self) -> Call:
        """Return the next call."""
        self._number += 1
        return Call(self.record, self._number)

    def lost(self, call: Call, ids: Iterable[str]) -> None:
        """Note that a call that carried messages with these ids got no answer."""
        noted = time.monotonic()
        with _lock:
            for task_id in ids:
                _unanswered.pop(task_id, None)
                _unanswered[task_id] = (call, noted)
            while len(_unanswered) > _MOST:
                _unanswered.popitem(last=False)
        self.renew()


def publication(
    keys: Keys, call: Call, ready: str, queue: str, message: Any, *, once: str = "", event: Sequence[Any] = ()
) -> tuple[list[str], list[Any]]:
    """Return keys and arguments of :data:`publish_script`.

    Args:
        once: name of a successor that is to be published once.
        event: channel and text of an event, or nothing.
    """
    named = [call.record, ready, keys.wake(queue)]
    return [*named, keys.published(once)] if once else named, [
        call.number,
        REMEMBERED,
        ONCE,
        message,
        MARKER_MS,
        *event,
    ]


def delaying(
    keys: Keys,
    call: Call,
    name: str,
    delay_ms: int,
    ready: str,
    message: Any,
    *,
    once: str = "",
    event: Sequence[Any] = (),
) -> tuple[list[str], list[Any]]:
    """Return keys and arguments of :data:`delay_script`."""
    named = [call.record, keys.delayed, keys.delayed_messages]
    return [*named, keys.published(once)] if once else named, [
        call.number,
        REMEMBERED,
        ONCE,
        name,
        delay_ms,
        ready,
        message,
        *event,
    ]


def batch(
    keys: Keys, call: Call, messages: Iterable[tuple[Any, Ready]], event: Sequence[Any]
) -> tuple[list[str], list[Any]]:
    """Return keys and arguments of :data:`many_script` for messages and their queues."""
    named, delayed = [call.record, keys.delayed, keys.delayed_messages], list[Any]()
    lists: dict[str, list[str]] = {}
    for queue, message in messages:
        if message.delay_ms:
            delayed += [message.name, message.delay_ms, message.list, message.text]
            continue
        texts = lists.get(message.list)
        if texts is None:
            named += [message.list, keys.wake(queue.name)]
            texts = lists[message.list] = []
        texts.append(message.text)
    channel, told = event or ("", "")
    counts = [len(texts) for texts in lists.values()]
    head = [call.number, REMEMBERED, MARKER_MS, channel, told, len(delayed) // 4, *counts]
    return named, [*head, *delayed, *chain.from_iterable(lists.values())]


def checked(reply: Any) -> bool:
    """Read what a publishing script returned: False for a successor that had been published before.

    Raises:
        Shut: the call was given up meanwhile.
    """
    if int(reply) < 0:
        raise Shut("This publish was given up before the broker came to it; it was not sent.")
    return int(reply) == 1


def unanswered(error: BaseException | None) -> bool:
    """Whether an error leaves open whether a call was carried out; where nobody listened, it was not."""
    if not isinstance(error, BROKEN):
        return False
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return False
        error = error.__cause__ or error.__context__
    return True


# --- what got no answer in this process -------------------------------------------------

_unanswered: OrderedDict[str, tuple[Call, float]] = OrderedDict()
_lock = threading.Lock()


def in_doubt(task_id: str) -> bool:
    """Whether a publish of this id got no answer, and has not been asked about."""
    return bool(_unanswered) and task_id in _unanswered


def was_sent(client: redis.Redis, task_id: str) -> bool:
    """Settle what became of a publish that got no answer: True if it was sent; if not, it never will be.

    Raises:
        redis.RedisError: the broker cannot be asked; the doubt stays.
    """
    found = _unanswered.get(task_id)
    if found is None:
        return False
    call, noted = found
    if time.monotonic() > noted + REMEMBERED:
        sent = False
    else:
        sent = bool(_settle(client, keys=[call.record], args=[call.number, REMEMBERED]))
    with _lock:
        _unanswered.pop(task_id, None)
    return sent


def doubt(task_id: str) -> str:
    """Return what any process needs to settle a publish of this id that got no answer here, "" for no doubt."""
    found = _unanswered.get(task_id)
    if found is None:
        return ""
    call, noted = found
    return f"{call.record} {call.number} {time.time() - (time.monotonic() - noted):.0f}"


def came_through(client: redis.Redis, doubt: str) -> bool:
    """Settle, in whatever process, what became of a publish; asked again, the answer is the same.

    Returns:
        True if it was sent; if not, it never will be, unless it is longer ago than :data:`REMEMBERED`.
    Raises:
        redis.RedisError: the broker cannot be asked.
    """
    record, number, at = doubt.rsplit(" ", 2)
    if time.time() > float(at) + REMEMBERED:
        return False
    return bool(_settle(client, keys=[record], args=[int(number), REMEMBERED]))


def _forget() -> None:
    """A fork has its parent's doubts, and may ask about them; only the lock may be held by a thread it has not."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forget)
