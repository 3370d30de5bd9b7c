"""What a supervisor does at the broker for processes that cannot do it themselves: the busy and the dead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

from orchestrator import conf
from orchestrator.transport import inflight
from orchestrator.transport.inflight import InFlight
from orchestrator.transport.keys import Keys

#: What its calls raise while the broker cannot be asked.
ERRORS: tuple[type[Exception], ...] = (redis.RedisError, OSError)


class Steward:
    """Acts for owners by name. Raises :data:`ERRORS`; every call may be repeated."""

    def __init__(self, client: redis.Redis, keys: Keys, lease: float) -> None:
        self._client = client
        self._keys = keys
        self.lease = lease

    @classmethod
    def on(cls, channel: Any) -> Steward:
        """Use a channel's connection."""
        return cls(channel.raw, channel.keys, conf.settings().lease_seconds)

    def renew(self, owner: str) -> int:
        """Extend an owner's lease; return how many messages it holds, -1 if it has no lease."""
        return InFlight(self._client, self._keys, owner, self.lease).renew()

    def reclaim(self, owner: str, finished: Sequence[int], stays: int) -> tuple[int, bool]:
        """Wind up what a dead owner held; see :func:`orchestrator.transport.inflight.reclaim`."""
        return inflight.reclaim(self._client, self._keys, owner, finished, stays)
