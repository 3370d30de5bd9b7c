"""Messages that wait for their time: in the broker, not in a worker's memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis

from orchestrator.stores.redis.scripts import Script
from orchestrator.transport.keys import MARKER_MS, SEPARATOR, Keys

#: Seconds; an ETA that is nearer is left to the worker, which is exact to the millisecond.
THRESHOLD = 1.0
#: Messages that one call moves.
BATCH = 500

_PACKAGE = "orchestrator.transport.scripts"
_due = Script("due", package=_PACKAGE)
_cancel = Script("cancel", package=_PACKAGE)


@dataclass(frozen=True, slots=True)
class Delayed:
    """One message that waits. ``name`` names it in the other functions; ``due`` is seconds since the epoch."""

    name: str
    due: float
    queue: str
    task: str
    task_id: str
    message: bytes


def seconds_left(headers: Any, now: float) -> float:
    """Return in how many seconds a message is due by its ``eta``; 0 where it has none that can be read."""
    eta = headers.get("eta") if isinstance(headers, dict) else None
    if not isinstance(eta, str):
        return 0.0
    try:
        at = datetime.fromisoformat(eta)
    except ValueError:
        return 0.0  # the worker tells what is wrong with it
    if at.tzinfo is None:
        return 0.0  # only the app knows its time zone
    return at.timestamp() - now


def name_of(message: dict[str, Any]) -> str:
    """Return the name under which a message waits: its task's id, made unique by its delivery tag."""
    return f"{message['headers'].get('id') or ''}:{message['properties']['delivery_tag']}"


def move_due(client: redis.Redis, keys: Keys, limit: int = BATCH) -> tuple[int, float]:
    """Move messages whose time has come to their queues.

    Returns:
        how many, and the seconds until the next one is due (infinity: none waits).
    """
    reply: Any = _due(
        client, keys=[keys.delayed, keys.delayed_messages], args=[limit, keys.wake_prefix, SEPARATOR, MARKER_MS]
    )
    moved, left = int(reply[0]), int(reply[1])
    return moved, float("inf") if left < 0 else left / 1000


def count(client: redis.Redis, keys: Keys) -> int:
    """Return how many messages wait for their time."""
    return int(client.zcard(keys.delayed))


def listed(client: redis.Redis, keys: Keys, *, offset: int = 0, limit: int = 100) -> list[Delayed]:
    """Return messages that wait, the nearest first."""
    rows: Any = client.zrange(keys.delayed, offset, offset + limit - 1, withscores=True)
    if not rows:
        return []
    records: Any = client.hmget(keys.delayed_messages, [name for name, _ in rows])
    return [_delayed(keys, name, due, record) for (name, due), record in zip(rows, records, strict=True) if record]


def find(client: redis.Redis, keys: Keys, task_id: str) -> list[str]:
    """Return the names of the messages of one task that wait; looks through all of them."""
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", task_id) + ":*"
    found: Iterator[Any] = client.zscan_iter(keys.delayed, match=pattern, count=1000)
    return [name.decode() for name, _ in found]


def cancel(client: redis.Redis, keys: Keys, name: str) -> bytes | None:
    """Take a message out for good; return it, or None if it does not wait any more."""
    record: Any = _cancel(client, keys=[keys.delayed, keys.delayed_messages], args=[name])
    return _parts(record)[1] if record else None


def run_now(client: redis.Redis, keys: Keys, name: str) -> bool:
    """Make a message due; whether it still waited. The next round of any worker moves it."""
    if client.zscore(keys.delayed, name) is None:
        return False
    client.zadd(keys.delayed, {name: 0}, xx=True)
    move_due(client, keys)
    return True


def _delayed(keys: Keys, name: bytes, due: float, record: bytes) -> Delayed:
    ready, message = _parts(record)
    try:
        headers = json.loads(message).get("headers") or {}
    except (ValueError, AttributeError):
        headers = {}
    return Delayed(
        name=name.decode(),
        due=due / 1000,
        queue=keys.queue_of(ready),
        task=str(headers.get("task") or ""),
        task_id=str(headers.get("id") or ""),
        message=message,
    )


def _parts(record: bytes) -> tuple[str, bytes]:
    _, length, rest = record.split(b":", 2)
    return rest[: int(length)].decode(), rest[int(length) :]
