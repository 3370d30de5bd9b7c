"""Which tasks have a message somewhere in the broker: waiting, delayed, parked, in flight, on its way to the inbox."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from orchestrator.stores.redis.limits import MESSAGES
from orchestrator.transport import fairness
from orchestrator.transport.keys import STEPS, Keys

#: Messages read by one command.
CHUNK = 500

#: Where Celery writes a message's task id. Quotes in what people wrote are escaped, so little else looks like it.
_ID = re.compile(rb'"correlation_id"\s*:\s*"((?:[^"\\]|\\.)+)"')


def task_ids(client: redis.Redis, keys: Keys, queues: Iterable[str], unacked: str) -> set[str]:
    """Return the id of every task that has a message in the broker. Reads all of them, a few at a time.

    What moves meanwhile may be missed: places are read in the order in which messages pass them, but some go back.
    So what is missing for certain is missing twice.

    Args:
        queues: every queue in which something may wait.
        unacked: key of the hash in which stock workers hold messages.

    Raises:
        redis.RedisError: the broker cannot be asked.
    """
    found: set[str] = set()
    for message in _messages(client, keys, list(queues), unacked):
        ids = _ID.findall(message)
        found.update(json.loads(b'"%s"' % one) for one in ids)
        if not ids:
            found.update(_without_pattern(message))
    return found


def _messages(client: redis.Redis, keys: Keys, queues: list[str], unacked: str) -> Iterator[bytes]:
    yield from _hash(client, keys.delayed_messages)
    yield from _hash(client, keys.ours + MESSAGES)
    for queue in queues:
        for step in STEPS:
            ready = keys.ready(queue, step)
            for name in (ready, *fairness.lines(client, keys, ready), keys.released(queue, step)):
                yield from _list(client, name)
    for name in client.scan_iter(match=f"{_literal(keys.inflight_prefix)}*", count=1000):
        yield from _hash(client, name)
    yield from _hash(client, unacked)
    yield from _list(client, keys.aside)


def _list(client: redis.Redis, name: str) -> Iterator[bytes]:
    """Read from the side at which messages come: what comes meanwhile has others read twice, and none passed over."""
    start = 0
    while True:
        some: Any = client.lrange(name, start, start + CHUNK - 1)
        yield from some
        if len(some) < CHUNK:
            return
        start += CHUNK


def _hash(client: redis.Redis, name: str | bytes) -> Iterator[bytes]:
    values: Any = client.hscan_iter(name, count=CHUNK)
    for _, value in values:
        yield value


def _literal(text: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _without_pattern(message: bytes) -> Iterator[str]:
    try:
        task_id = json.loads(message)["headers"]["id"]
    except (ValueError, LookupError, TypeError):
        return
    if isinstance(task_id, str):
        yield task_id
