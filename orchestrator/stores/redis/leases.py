"""The one lease primitive: whatever holds something for a while holds it through this."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from orchestrator.contracts.ports import Holder, Lease
from orchestrator.stores.redis import partings
from orchestrator.stores.redis.calls import call
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.renewal import Renewal
from orchestrator.stores.redis.scripts import Script
from orchestrator.stores.redis.streams import unavailable

_acquire = Script("lease", "lease_acquire")
_renew = Script("lease", "lease_renew")
_release = Script("lease", "lease_release")

#: Keys after the prefix; part of the format.
LEASE, FENCES = "lease:", "fence"


def milliseconds(seconds: float) -> int:
    """Return a span as Redis takes it, never nothing."""
    return max(1, int(seconds * 1000))


class RedisLeases:
    """Leases in Redis (:class:`~orchestrator.contracts.ports.Leases`). Spans are measured by Redis's clock."""

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        self._url = url
        self.prefix = key_prefix
        self._timeout = timeout
        self._renewal = Renewal(self.renew)

    @property
    def fences(self) -> str:
        """Key of the last fencing number given out."""
        return self.prefix + FENCES

    def name(self, key: str) -> str:
        """Return the Redis key of a lease."""
        return f"{self.prefix}{LEASE}{key}"

    def acquire(self, key: str, owner: str, seconds: float, note: str = "") -> Lease | None:
        """Take a key if it is free, or extend it for the owner that has it.

        Returns:
            None if somebody else holds it.

        Raises:
            StoreUnavailable: Redis cannot be asked; asking again as the same owner is safe.
        """
        fence = self.run(_acquire, [self.name(key), self.fences], [owner, milliseconds(seconds), note])
        return None if fence is None else Lease(key, owner, int(fence))

    def renew(self, lease: Lease, seconds: float) -> bool:
        """Let a lease last ``seconds`` from now. False if its owner has lost it.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        return bool(self.run(_renew, [self.name(lease.key)], [lease.owner, milliseconds(seconds)]))

    def release(self, key: str, owner: str, *, soon: bool = False) -> bool:
        """Give a key back. False if this owner does not hold it (any more).

        Args:
            soon: whether it can wait for the next call, see :meth:`leave`; its answer is nobody's then.

        Raises:
            StoreUnavailable: Redis cannot be asked; the lease ends by itself.
        """
        if soon:
            self.leave(_release, [self.name(key)], [owner])
            return True
        return bool(self.run(_release, [self.name(key)], [owner]))

    def holder(self, key: str) -> Holder | None:
        """Return who holds a key, None if nobody does.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            with client(self._url, self._timeout).pipeline(transaction=True) as pipe:
                pipe.hmget(self.name(key), "owner", "fence", "note")
                pipe.pttl(self.name(key))
                (owner, fence, note), left = pipe.execute()
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error
        if owner is None:
            return None
        return Holder(Lease(key, owner.decode(), int(fence)), (note or b"").decode(), max(0, left) / 1000)

    def free(self, key: str) -> bool:
        """Take a key from whoever holds it: a person's decision, never a program's. False if it was free.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        return self.delete(self.name(key))

    @contextmanager
    def keep(self, lease: Lease, seconds: float) -> Iterator[None]:
        """Renew a lease in the background for as long as the block runs."""
        self._renewal.begin(lease, seconds)
        try:
            yield
        finally:
            self._renewal.end(lease)

    def run(self, script: Script, keys: list[str], args: list[object]) -> Any:
        """Run a script that works on leases, also of another store.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            return call(self._url, self._timeout, script, keys, args)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def leave(
        self, script: Script, keys: list[str], args: list[object], *, lost: Any = None, vital: bool = False
    ) -> None:
        """Leave a script to be run soon, see :func:`orchestrator.stores.redis.partings.leave`."""
        partings.leave(self._url, self._timeout, script, keys, args, lost=lost, vital=vital)

    def ask(self, question: Callable[[redis.Redis], Any]) -> Any:
        """Put a question to this Redis.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            return question(client(self._url, self._timeout))
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def pipeline(self) -> Any:
        """Return a transaction that :meth:`execute` runs; for another store."""
        return client(self._url, self._timeout).pipeline(transaction=True)

    def execute(self, pipe: Any) -> list[Any]:
        """Run a transaction.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            return list(pipe.execute())
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def delete(self, name: str) -> bool:
        """Delete a Redis key. False if it was not there.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        return bool(self.ask(lambda connection: connection.delete(name)))
