"""Deduplication locks in Redis: leases owned by task ids, and an index of them for people."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from kombu.serialization import dumps, loads

from orchestrator.contracts.deduplication import RUNNING, Claim, Duplicate, Lock, Mode, Start, Taken, Unsure, Wait
from orchestrator.contracts.ports import Lease
from orchestrator.stores.redis.leases import RedisLeases, milliseconds
from orchestrator.stores.redis.scripts import Script

_take = Script("lease", "dedup", "dedup_take")
_confirm = Script("lease", "dedup", "dedup_confirm")
_begin = Script("lease", "dedup", "dedup_begin")
_end = Script("lease", "dedup_end")

#: Of keys after the prefix, those of leases among them; part of the format.
LOCK, RUN, GATE, ARGUMENTS, INDEX = "dedup:", "dedup-run:", "dedup-gate:", "dedup-arguments:", "dedup"
#: Seconds that publishing may take before its lock goes to somebody else.
PUBLISHING = 30.0
#: Seconds until a message looks again whether the run before it has ended.
LOOK_AGAIN = 1.0


class RedisDeduplicationLocks:
    """Locks in Redis (:class:`~orchestrator.contracts.deduplication.DeduplicationLocks`).

    Each call is one round trip and raises ``StoreUnavailable`` if Redis cannot be asked; asking again is safe.
    """

    def __init__(self, leases: RedisLeases, lease_seconds: float) -> None:
        self._leases = leases
        # A killed worker's message comes back within a lease and five seconds; its lock is there until then.
        self._running = 2 * lease_seconds + 10

    def encode(self, args: Any, kwargs: Any) -> str:
        """Return arguments as JSON.

        Raises:
            EncodeError: they are none.
        """
        return str(dumps((list(args), dict(kwargs)), serializer="json")[2])

    def take(self, claim: Claim, task_id: str, arguments: str, called: float | None) -> Taken | Duplicate | Unsure:
        """Take the lock for :data:`PUBLISHING` seconds, or tell whose it is."""
        name = claim.name
        keys = [self._lock(name), self._leases.fences, self._index, self._gate(name)]
        found: Any = self._leases.run(
            _take,
            keys,
            [
                task_id,
                name,
                str(claim.mode),
                arguments if claim.newest else "",
                int((called or 0) * 1000),
                milliseconds(PUBLISHING),
                milliseconds(claim.window),
                milliseconds(claim.ttl),
                int(claim.max_wait * 1000),
            ],
        )
        if found[0] == b"taken":
            return Taken(int(found[1]) / 1000)
        owner = found[1].decode()
        return Duplicate(owner) if found[0] == b"duplicate" else Unsure(owner)

    def confirm(self, claim: Claim, task_id: str, seconds: float) -> None:
        """Let the lock of a message that is sent last."""
        self._leases.run(_confirm, [self._lock(claim.name), self._index], [task_id, claim.name, milliseconds(seconds)])

    def begin(self, claim: Claim, task_id: str, attempt_id: str) -> Start | Wait:
        """Let an attempt start, or tell how long it has to wait."""
        name = claim.name
        keys = [self._lock(name), self._leases.fences, self._index, self._gate(name), self._run(name)]
        spans = [milliseconds(span) for span in (claim.ttl, self._running, claim.window)]
        found: Any = self._leases.run(
            _begin, [*keys, self._arguments(task_id)], [task_id, name, str(claim.mode), attempt_id, *spans]
        )
        if found[0] == b"wait":
            return Wait(int(found[1]) / 1000 if found[1] > 0 else LOOK_AGAIN)
        return Start(_decoded(found[1]), bool(found[2]))

    def keep(self, claim: Claim, task_id: str) -> AbstractContextManager[None]:
        """Renew the lock of a running task."""
        return self._leases.keep(self._held(claim, task_id), self._running)

    def pause(self, claim: Claim, task_id: str) -> None:
        """Let the lock last for its ``ttl``; nothing in modes that hold none."""
        if claim.mode in RUNNING:
            self._leases.renew(self._held(claim, task_id), claim.ttl)

    def end(
        self, claim: Claim, task_id: str, attempt_id: str = "", *, again: float = 0.0
    ) -> tuple[list[Any], dict[str, Any]] | None:
        """Give everything back that a run holds."""
        return _decoded(self._leases.run(_end, *self._ending(claim, task_id, attempt_id, again)))

    def end_soon(self, claim: Claim, task_id: str, attempt_id: str) -> None:
        """Do that with the next call."""
        self._leases.leave(_end, *self._ending(claim, task_id, attempt_id, 0.0))

    def _ending(self, claim: Claim, task_id: str, attempt_id: str, again: float) -> tuple[list[str], list[object]]:
        name = claim.name
        keys = [self._lock(name), self._index, self._run(name), self._arguments(task_id)]
        return keys, [task_id, name, attempt_id, int(again * 1000)]

    def owner(self, claim: Claim) -> str | None:
        """Return the task id that holds a lock."""
        holder = self._leases.holder(LOCK + claim.name)
        return holder.lease.owner if holder else None

    def free(self, name: str) -> bool:
        """Take a lock, and a throttle's gate, away."""
        with self._leases.pipeline() as pipe:
            pipe.delete(self._lock(name), self._run(name), self._gate(name))
            pipe.zrem(self._index, name)
            deleted, _ = self._leases.execute(pipe)
        return bool(deleted)

    def list(self, offset: int, limit: int) -> list[Lock]:
        """Return locks, those first that end last."""
        with self._leases.pipeline() as pipe:
            pipe.zrevrange(self._index, offset, offset + limit - 1)
            (names,) = self._leases.execute(pipe)
        fields = ("owner", "since", "sent", "attempt", "duplicates")
        places = [(name.decode(), place) for name in names for place in (self._lock, self._run)]
        with self._leases.pipeline() as pipe:
            for name, place in places:
                pipe.hmget(place(name), *fields)
                pipe.pttl(place(name))
            found = self._leases.execute(pipe)
        return [
            _shown(name, values, left)
            for (name, _), values, left in zip(places, found[::2], found[1::2], strict=True)
            if values[0] is not None
        ]

    def count(self) -> int:
        """Return how many locks there are, about: those that ended by themselves a moment ago among them."""
        with self._leases.pipeline() as pipe:
            pipe.zcard(self._index)
            return int(self._leases.execute(pipe)[0])

    def _held(self, claim: Claim, task_id: str) -> Lease:
        return Lease((RUN if claim.mode is Mode.LATEST else LOCK) + claim.name, task_id, 0)

    @property
    def _index(self) -> str:
        return self._leases.prefix + INDEX

    def _lock(self, name: str) -> str:
        return self._leases.name(LOCK + name)

    def _run(self, name: str) -> str:
        return self._leases.name(RUN + name)

    def _gate(self, name: str) -> str:
        return self._leases.prefix + GATE + name

    def _arguments(self, task_id: str) -> str:
        return self._leases.prefix + ARGUMENTS + task_id


def _decoded(text: bytes | None) -> tuple[list[Any], dict[str, Any]] | None:
    if not text:
        return None
    args, kwargs = loads(text.decode(), "application/json", "utf-8", accept=("application/json",))
    return list(args), dict(kwargs)


def _shown(name: str, values: list[bytes | None], left: int) -> Lock:
    owner, since, sent, attempt, duplicates = values
    state = "running" if attempt else "waiting" if sent else "publishing"
    return Lock(name, (owner or b"").decode(), state, int(since or 0) / 1000, max(0, left) / 1000, int(duplicates or 0))
