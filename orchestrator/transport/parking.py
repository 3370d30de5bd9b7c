"""Messages that wait for a limit: in lines beside its counts, in no queue and no worker.

A line is ordered by when its messages came, each step of priority counting as having come
earlier. Whatever frees something also releases who is next: a slot that is given back, a
limit that was changed. Only the passing of time does not tell by itself, so every consumer
and relay looks at the lines whose time has come.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import redis
from redis.connection import parse_url

from orchestrator import conf
from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.limiting import Waiting
from orchestrator.stores.redis.limits import (
    LINE,
    LINES,
    LINES_AT_ONCE,
    MESSAGES,
    due_script,
    park_arguments,
    park_script,
)
from orchestrator.transport.keys import RELEASED, SEPARATOR, Keys


def possible(broker: Any) -> bool:
    """Whether limits are counted on a broker, so that messages can wait there.

    Args:
        broker: kombu's connection.
    """
    try:
        url, _ = conf.limits_place()
        place: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    except (InvalidOption, ValueError):
        return False
    there = (place.get("host") or "localhost", place.get("port") or 6379, int(place.get("db") or 0))
    database = str(broker.virtual_host or "0").strip("/") or "0"
    here = (broker.hostname or "localhost", broker.port or 6379, int(database) if database.isdecimal() else -1)
    return there == here


def park(client: redis.Redis, keys: Keys, inflight: str, serial: int, waiting: Waiting) -> bool:
    """Move a claimed message into a line; False if it was not its owner's any more.

    Args:
        inflight: key of the owner's in-flight hash.
    """
    args = park_arguments(keys.ours, serial, waiting, conf.settings().aging_seconds)
    return bool(park_script(client, keys=[inflight], args=[*args, keys.wake_prefix, SEPARATOR, RELEASED]))


def release_due(client: redis.Redis, keys: Keys) -> float:
    """Release from the lines whose time has come what their limits let through.

    Returns:
        seconds until the next line is due (infinity: none waits).
    """
    reply: Any = due_script(client, keys=[], args=[keys.ours, LINES_AT_ONCE])
    return float("inf") if reply[1] < 0 else reply[1] / 1_000_000


def count(client: redis.Redis, keys: Keys) -> int:
    """Return how many messages wait for limits."""
    return int(client.hlen(keys.ours + MESSAGES))


@dataclass(frozen=True, slots=True)
class Parked:
    """One message that waits; ``limit`` is the id of the limit that holds it up."""

    limit: str
    queue: str
    task: str
    task_id: str
    message: bytes


def listed(client: redis.Redis, keys: Keys, limit: str, *, offset: int = 0, count: int = 100) -> list[Parked]:
    """Return messages that wait for a limit, the next one first."""
    names: Any = client.zrange(keys.ours + LINE + limit, offset, offset + count - 1)
    return _read(client, keys, limit, names)


def find(client: redis.Redis, keys: Keys, task_id: str) -> list[Parked]:
    """Return the messages of one task that wait; looks through all that do."""
    pattern = "* " + re.sub(r"([*?\[\]\\])", r"\\\1", task_id)
    names = [name for name, _ in client.hscan_iter(keys.ours + MESSAGES, match=pattern, count=1000)]
    lines: Any = client.zrange(keys.ours + LINES, 0, -1) if names else []
    found = []
    for line in lines:
        limit = line.decode()
        there = [name for name in names if client.zscore(keys.ours + LINE + limit, name) is not None]
        found += _read(client, keys, limit, there)
    return found


def _read(client: redis.Redis, keys: Keys, limit: str, names: list[Any]) -> list[Parked]:
    records: Any = client.hmget(keys.ours + MESSAGES, names) if names else []
    found = []
    for name, record in zip(names, records, strict=True):
        if record is None:
            continue  # released meanwhile
        _, first, second, rest = record.split(b":", 3)
        ready, message = rest[: int(first)].decode(), rest[int(first) + int(second) :]
        try:
            headers = json.loads(message).get("headers") or {}
        except (ValueError, AttributeError):
            headers = {}
        task_id = name.decode().split(" ", 2)[2]
        found.append(Parked(limit, keys.queue_of(ready), str(headers.get("task") or ""), task_id, message))
    return found
