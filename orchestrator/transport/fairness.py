"""Queues that are shared fairly among tenants.

Whoever publishes puts messages at the back of their queue, as ever. A queue on which a
message with a fairness key was seen is sorted as it is claimed from: each tenant gets a
line of its own, and the lines are served in turn, by weight.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis

from orchestrator.contracts.message import FAIRNESS, HEADER
from orchestrator.transport.keys import STEPS, Keys

#: Seconds after which a queue is named fair again: the broker may have lost its data.
NAMED_FOR = 10.0
#: Where tenants share, a process claims this part of what it would otherwise hold.
AHEAD = 4


class FairQueues:
    """The queues that this process has named fair."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._named: dict[str, float] = {}

    def notice(self, queue: str, headers: Mapping[str, Any]) -> None:
        """Look at a message's headers, and have its queue shared fairly if it asks for that."""
        ours = headers.get(HEADER)
        if type(ours) is not dict or FAIRNESS not in ours:
            return
        now = time.monotonic()
        if now >= self._named.get(queue, 0.0):
            # The next message will do if the broker is away.
            with suppress(redis.RedisError):
                self._client.sadd(self._keys.fair, queue)
                self._named[queue] = now + NAMED_FOR

    def fewer(self, want: int, free: int) -> int:
        """Return how many messages to claim: what is claimed ahead, no other tenant can pass."""
        return max(1, free, want // AHEAD) if self._named else want


def counts(client: redis.Redis, keys: Keys, queue: str) -> dict[int, int]:
    """Return how many messages of a queue lie in tenants' lines, by priority step."""
    found = {}
    for step in STEPS:
        tenants = lines(client, keys, keys.ready(queue, step))
        with client.pipeline(transaction=False) as pipe:
            for line in tenants:
                pipe.llen(line)
            found[step] = sum(pipe.execute())
    return found


def purge(client: redis.Redis, keys: Keys, queue: str) -> int:
    """Delete the messages of a queue that lie in tenants' lines or were released by a limit; return how many."""
    size = sum(counts(client, keys, queue).values())
    for step in STEPS:
        ready, released = keys.ready(queue, step), keys.released(queue, step)
        size += int(client.llen(released))
        client.delete(released, f"{keys.ours}fair:ring:{ready}", *lines(client, keys, ready))
    return size


def lines(client: redis.Redis, keys: Keys, ready: str) -> list[str]:
    """Return the names of the tenants' lines of one list of a queue."""
    tenants: Any = client.zrange(f"{keys.ours}fair:ring:{ready}", 0, -1)
    return [f"{keys.ours}fair:line:{ready}:{tenant.decode()}" for tenant in tenants]
