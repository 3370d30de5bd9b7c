"""Which members of a chord are still out: one set of task ids a chord.

It only tells when it is worth looking at the members' states, so losing it loses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import redis

from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.streams import unavailable


class ChordSets:
    """The sets in one Redis. *Fails: closed, every call raises StoreUnavailable.*"""

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        """Name the keys; nothing is connected yet.

        Args:
            timeout: seconds that a call may take.
        """
        self.url = url
        self.timeout = timeout
        self._prefix = f"{key_prefix}chord:"

    def change(self, group_id: str, *, out: Sequence[str] = (), back: Sequence[str] = ()) -> int:
        """Add members that are out, strike those that are back; return how many are out then.

        Raises:
            StoreUnavailable: it is not known whether that was done; repeating it does no harm.
        """
        key = self._prefix + group_id
        try:
            with client(self.url, self.timeout).pipeline(transaction=True) as pipe:
                if out:
                    pipe.sadd(key, *out)
                if back:
                    pipe.srem(key, *back)
                pipe.scard(key)
                return int(pipe.execute()[-1])
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def forget(self, group_id: str) -> None:
        """Forget a chord.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            client(self.url, self.timeout).unlink(self._prefix + group_id)
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error
