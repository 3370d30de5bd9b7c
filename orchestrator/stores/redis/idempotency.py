"""Idempotency records in Redis: in progress is a lease, completed is a hash that expires."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from kombu.serialization import dumps, loads

from orchestrator.contracts import events
from orchestrator.contracts.idempotency import Began, Completed, Effect, Held
from orchestrator.contracts.ports import Lease
from orchestrator.stores.redis.leases import RedisLeases, milliseconds
from orchestrator.stores.redis.scripts import Script

_begin = Script("lease", "idempotency_begin")
_complete = Script("lease", "idempotency_complete")

#: Of a record's key after the prefix, and of its lease's key; part of the format.
RECORD, LEASE = "idempotency:", "idempotency:"


class RedisIdempotencyRecords:
    """Records in Redis (:class:`~orchestrator.contracts.idempotency.IdempotencyRecords`)."""

    def __init__(self, leases: RedisLeases) -> None:
        self._leases = leases

    def begin(self, effect: Effect, owner: str, seconds: float) -> Began | Held | Completed:
        """Look for the record and take the lease, in one round trip.

        Raises:
            StoreUnavailable: Redis cannot be asked; asking again as the same owner is safe.
        """
        key = LEASE + effect.name
        keys = [self._record(effect.name), self._leases.name(key), self._leases.fences]
        found: Any = self._leases.run(_begin, keys, [owner, milliseconds(seconds), effect.fingerprint])
        if found[0] == b"completed":
            return Completed(found[1].decode(), decoded(found[2].decode()))
        if found[0] == b"began":
            return Began(Lease(key, owner, int(found[1])))
        return Held(found[1].decode(), max(0, found[2]) / 1000)

    def complete(self, effect: Effect, lease: Lease, value: Any) -> bool:
        """Write the record and give the lease back. False if somebody else was first.

        Raises:
            EncodeError: the value is not JSON.
            StoreUnavailable: Redis cannot be asked; doing it again is safe.
        """
        return bool(self._leases.run(_complete, *self._completion(effect, lease, value)))

    def complete_soon(self, effect: Effect, lease: Lease, value: Any) -> None:
        """Do that with the next call; the acknowledgement of the message waits for it.

        Raises:
            EncodeError: the value is not JSON.
        """
        lost = events.LeaseLost(effect.task, effect.task_id, effect.key, lease.fence)
        self._leases.leave(_complete, *self._completion(effect, lease, value), lost=lost, vital=True)

    def _completion(self, effect: Effect, lease: Lease, value: Any) -> tuple[list[str], list[object]]:
        return [self._record(effect.name), self._leases.name(lease.key)], [
            lease.owner,
            effect.fingerprint,
            encoded(value),
            effect.task_id,
            milliseconds(effect.ttl),
        ]

    def give_up(self, effect: Effect, owner: str, *, soon: bool = False) -> None:
        """Give the lease back without a record; ``soon``: with the next call.

        Raises:
            StoreUnavailable: Redis cannot be asked; the lease ends by itself.
        """
        self._leases.release(LEASE + effect.name, owner, soon=soon)

    def keep(self, lease: Lease, seconds: float) -> AbstractContextManager[None]:
        """Renew a lease while a block runs."""
        return self._leases.keep(lease, seconds)

    def free(self, name: str) -> bool:
        """Forget an effect by its name, whether in progress or completed: a person's decision.

        Returns:
            False if nothing was there.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        held = self._leases.free(LEASE + name)
        return self._leases.delete(self._record(name)) or held

    def _record(self, name: str) -> str:
        return f"{self._leases.prefix}{RECORD}{name}"


def encoded(value: Any) -> str:
    """Return a result as it is recorded.

    Raises:
        EncodeError: it is not JSON.
    """
    return str(dumps(value, serializer="json")[2])


def decoded(text: str) -> Any:
    """Return a recorded result, equal to what a caller gets from the result backend."""
    return loads(text, "application/json", "utf-8", accept=("application/json",))
