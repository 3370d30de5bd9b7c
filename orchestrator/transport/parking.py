"""Messages that wait for a limit: in lines beside its counts, in no queue and no worker.

A line is ordered by when its messages came, each step of priority counting as having come
earlier. Whatever frees something also releases who is next: a slot that is given back, a
limit that was changed. Only the passing of time does not tell by itself, so every consumer
and relay looks at the lines whose time has come.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.connection import parse_url

from orchestrator import conf
from orchestrator.contracts.errors import InvalidOption
from orchestrator.contracts.limiting import Waiting
from orchestrator.stores.redis.limits import LINES_AT_ONCE, MESSAGES, due_script, park_arguments, park_script
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
