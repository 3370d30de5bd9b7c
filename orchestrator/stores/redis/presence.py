"""Who is there: long-running processes show themselves, whoever asks counts the recent ones.

One sorted set a kind of process, scored by Redis's own time, so clocks need not agree.
(What a stream knows of its readers does not do: several servers tell an idle reader
from a dead one only when a record comes.)
"""

from __future__ import annotations

import redis

from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.streams import unavailable

#: Seconds after its last sign of life at which a process no longer counts.
SILENCE = 15.0
#: Seconds between two signs of life.
SHOW_EVERY = 5.0


class Presence:
    """The processes of one kind, such as ``relay``."""

    def __init__(self, url: str, key_prefix: str, kind: str, timeout: float) -> None:
        self._url = url
        self._key = f"{key_prefix}present:{kind}"
        self._timeout = timeout

    def show(self, name: str) -> None:
        """Say that the process ``name`` is there.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            connection = client(self._url, self._timeout)
            now = self._now(connection)
            with connection.pipeline(transaction=True) as pipe:
                pipe.zadd(self._key, {name: now})
                pipe.zremrangebyscore(self._key, "-inf", now - 10 * SILENCE)
                pipe.execute()
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def leave(self, name: str) -> None:
        """Say that the process ``name`` ends.

        Raises:
            StoreUnavailable: Redis cannot be asked; it counts for a few seconds more.
        """
        try:
            client(self._url, self._timeout).zrem(self._key, name)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def count(self) -> int:
        """Return how many showed themselves of late.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            connection = client(self._url, self._timeout)
            return int(connection.zcount(self._key, self._now(connection) - SILENCE, "+inf"))
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    @staticmethod
    def _now(connection: redis.Redis) -> float:
        seconds, microseconds = connection.time()
        return seconds + microseconds / 1_000_000
