"""Tasks that were called off: their ids, kept for every worker that is, or will be."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import redis

from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.streams import unavailable

#: Seconds for which an id is kept: longer than messages usually wait, delayed ones among them.
KEPT = 14 * 24 * 3600
#: Ids kept at most, the latest.
MOST = 100_000


class RedisRevoked:
    """The ids, in the order in which they were called off (:class:`~orchestrator.contracts.ports.Revoked`)."""

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        self._url = url
        self._ids = f"{key_prefix}revoked"
        self._version = f"{key_prefix}revoked:version"
        self._timeout = timeout

    def add(self, ids: Iterable[str]) -> None:
        """Keep ids.

        Raises:
            StoreUnavailable: Redis cannot be asked; doing it again is safe.
        """
        now = time.time()
        try:
            with client(self._url, self._timeout).pipeline(transaction=True) as pipe:
                pipe.zadd(self._ids, dict.fromkeys(ids, now))
                pipe.zremrangebyscore(self._ids, "-inf", now - KEPT)
                pipe.zremrangebyrank(self._ids, 0, -MOST - 1)
                pipe.expire(self._ids, KEPT)
                pipe.incr(self._version)
                pipe.execute()
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def since(self, version: int) -> tuple[int, list[str]]:
        """Return the present version, and all ids if it is another than ``version``.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            connection = client(self._url, self._timeout)
            found: Any = connection.get(self._version)
            now = int(found or 0)
            if now == version:
                return now, []
            rows: Any = connection.zrangebyscore(self._ids, time.time() - KEPT, "+inf")
            return now, [row.decode() for row in rows]
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error
