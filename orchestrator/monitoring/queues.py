"""How many messages lie where: ready by queue and priority, in flight, dead.

Counts on Redis follow kombu's layout: one LIST a queue and priority, one hash of
messages that a worker holds. On any other broker only what it says itself is known.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import redis
from kombu.transport.redis import Channel

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.monitoring.reach import REDIS_SCHEMES, broker_url, redis_url
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.letters import letters_stream
from orchestrator.stores.redis.presence import Presence
from orchestrator.transport import delayed, fairness, inflight
from orchestrator.transport.keys import Keys
from orchestrator.transport.setback import Setback
from orchestrator.transport.setback import last as last_setback


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Messages of one queue that wait for a worker; ``by_priority`` where the broker tells."""

    name: str
    ready: int
    by_priority: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Letters that are not rows yet, the age of the oldest in seconds, and who drains them."""

    waiting: int
    oldest_seconds: float
    relays: int


def ready(timeout: float) -> list[QueueCount]:
    """Count what waits in every queue that the app or the broker knows, by name.

    Raises:
        redis.RedisError, OSError: the broker cannot be asked.
    """
    names = set(get_app().amqp.queues)
    if not _on_redis():
        return [_declared(name) for name in sorted(names)]
    connection = client(redis_url(broker_url()), timeout)
    return [_listed(connection, name) for name in sorted(names | _bound(connection))]


def in_flight(timeout: float) -> int | None:
    """Count messages that a worker holds, those waiting there for their time included; None if unknown."""
    if not _on_redis():
        return None
    connection = client(redis_url(broker_url()), timeout)
    # Both: while a fleet moves from the stock transport, some of its workers hold messages in kombu's way.
    stock = int(connection.hlen(_option("global_keyprefix") + _option("unacked_key")))
    return stock + inflight.count(connection, keys())


def waiting_for_their_time(timeout: float) -> int | None:
    """Count delayed messages in the broker; None if unknown."""
    if not _on_redis():
        return None
    return delayed.count(client(redis_url(broker_url()), timeout), keys())


def parked(timeout: float) -> dict[str, int]:
    """Count messages that wait for a limit, by its id; nothing where messages do not wait in lines.

    Raises:
        StoreUnavailable: the limits cannot be asked.
    """
    return get_app().limits.parked() if conf.limits_beside_messages() else {}


def pause(queue: str, timeout: float) -> None:
    """Let workers on our transport take nothing more from a queue. What they hold already, they finish.

    Raises:
        redis.RedisError: the broker cannot be asked.
    """
    client(redis_url(broker_url()), timeout).sadd(keys().paused, queue)


def resume(queue: str, timeout: float) -> None:
    """Let workers take from a queue again, within a second; errors as for :func:`pause`."""
    client(redis_url(broker_url()), timeout).srem(keys().paused, queue)


def paused(timeout: float) -> list[str]:
    """Return the paused queues by name, none where the broker is no Redis; errors as for :func:`pause`."""
    if not _on_redis():
        return []
    found = cast("set[bytes]", client(redis_url(broker_url()), timeout).smembers(keys().paused))
    return sorted(name.decode() for name in found)


def setback(timeout: float) -> Setback | None:
    """Return when the broker last came back with an older state than it had, as far as is known.

    Raises:
        redis.RedisError: the broker cannot be asked.
    """
    return last_setback(client(redis_url(broker_url()), timeout), keys()) if _on_redis() else None


def letterbox(timeout: float) -> Letterbox:
    """Look into the letters stream.

    Raises:
        StoreUnavailable, redis.RedisError: it cannot be asked.
    """
    url = conf.state_url()
    prefix = conf.settings().key_prefix
    stream = letters_stream(url, prefix, timeout)
    connection = client(url, timeout)
    waiting = stream.size()
    oldest = cast("list[Any]", connection.xrange(stream.key, count=1))
    age = 0.0
    if oldest:
        born = int(oldest[0][0].split(b"-")[0]) / 1000
        age = max(0.0, time.time() - born)
    return Letterbox(waiting, age, Presence(url, prefix, "relay", timeout).count())


def workers(timeout: float) -> list[str]:
    """Return the names of the workers that answer within ``timeout`` seconds."""
    replies: Iterable[dict[str, Any]] = get_app().control.ping(timeout=timeout) or ()
    return sorted(name for reply in replies for name in reply)


def _on_redis() -> bool:
    return broker_url().startswith(REDIS_SCHEMES)


def keys() -> Keys:
    """Return the names of the broker's keys, where the broker is a Redis."""
    prefix = _option("global_keyprefix")
    return Keys(prefix, prefix + conf.settings().key_prefix)


def _option(name: str) -> Any:
    return get_app().conf.broker_transport_options.get(name, getattr(Channel, name))


def _listed(connection: redis.Redis, name: str) -> QueueCount:
    prefix, sep = _option("global_keyprefix"), _option("sep")
    # Kombu keeps priority 0 under the bare name.
    lists = {step: f"{prefix}{name}{sep}{step}" if step else f"{prefix}{name}" for step in _option("priority_steps")}
    ours = keys()
    with connection.pipeline(transaction=False) as pipe:
        for step, key in lists.items():
            pipe.llen(key)
            pipe.llen(ours.released(name, step))
        found = [int(size) for size in pipe.execute()]
    # What waited for a limit and may start is ready, too, and what is sorted by tenants.
    shared = fairness.counts(connection, ours, name)
    sizes = [
        ready + released + shared.get(step, 0)
        for step, ready, released in zip(lists, found[::2], found[1::2], strict=True)
    ]
    by_priority = {str(step): size for step, size in zip(lists, sizes, strict=True) if size}
    return QueueCount(name, sum(sizes), by_priority)


def _bound(connection: redis.Redis) -> set[str]:
    """Names of task queues that some producer or worker declared, whether or not this app knows them."""
    prefix = _option("global_keyprefix") + Channel.keyprefix_queue.replace("%s", "")
    names = set()
    for key in connection.scan_iter(match=f"{prefix}*", count=1000):
        exchange = key.decode()[len(prefix) :]
        # Remote control and events have queues of their own, one a process, which hold no tasks.
        if exchange.endswith("pidbox") or exchange.startswith("celeryev"):
            continue
        for binding in cast("set[bytes]", connection.smembers(key)):
            names.add(binding.decode().split(_option("sep"))[-1])
    return names


def _declared(name: str) -> QueueCount:
    with get_app().connection_for_read() as connection:
        return QueueCount(name, int(connection.default_channel.queue_declare(name, passive=True).message_count))
