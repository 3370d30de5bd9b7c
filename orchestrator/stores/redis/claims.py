"""First writer wins, once for all processes."""

from __future__ import annotations

import redis

from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.scripts import Script
from orchestrator.stores.redis.streams import unavailable

_claim = Script("claim")


class RedisClaims:
    """Claims in Redis (:class:`~orchestrator.contracts.ports.Claims`)."""

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        self._url = url
        self._prefix = f"{key_prefix}claim:"
        self._timeout = timeout

    def claim(self, key: str, owner: str, ttl: float) -> bool:
        """Return whether ``owner`` holds ``key``, taking it for ``ttl`` seconds if it is free.

        An owner that asks again still holds it, and for a full ``ttl`` from then on.

        Raises:
            StoreUnavailable: Redis cannot be asked; asking again as the same owner is safe.
        """
        try:
            held = _claim(
                client(self._url, self._timeout), keys=[self._prefix + key], args=[owner, max(1, int(ttl * 1000))]
            )
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error
        return bool(held)
