"""The in-flight hash: every claimed message lies there, under its owner, until it is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from orchestrator.contracts.limiting import Waiting
from orchestrator.stores.redis.calls import Left, call_after
from orchestrator.stores.redis.scripts import Script
from orchestrator.transport import parking, revoked
from orchestrator.transport.keys import MARK, MARKER_MS, SEPARATOR, STEPS, Keys
from orchestrator.transport.setback import KEPT, Memory

_PACKAGE = "orchestrator.transport.scripts"
claim_script = Script("fair", "revoked", "claim", package=_PACKAGE)
_give_back = Script("give_back", package=_PACKAGE)
_renew = Script("renew", package=_PACKAGE)
_recover = Script("recover", package=_PACKAGE)
_set_aside = Script("set_aside", package=_PACKAGE)
_take_over = Script("take_over", package=_PACKAGE)
_reclaim = Script("reclaim", package=_PACKAGE)


@dataclass(frozen=True, slots=True)
class Claimed:
    """One message of ours; ``serial`` names this claim of it, once for its owner."""

    serial: int
    queue: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """What one call brought.

    ``acknowledged`` counts the acknowledgements that were still ours; ``broken`` names a
    key that should be a list and is not.
    """

    claimed: list[Claimed]
    acknowledged: int
    more: bool
    broken: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of :data:`claim_script`, and what its answer means."""

    keys: list[str]
    args: list[Any]
    serial: int
    want: int
    _queues: Sequence[str]
    _lists: Sequence[tuple[str, int]]

    @property
    def serials(self) -> range:
        """What it may take, if it is carried out."""
        return range(self.serial + 1, self.serial + self.want + 1)

    def turn(self, reply: Any) -> Turn:
        """Read the script's answer."""
        acknowledged, more, broken, called_off, stamps = reply[:5]
        claimed = [
            Claimed(self.serial + 1 + at, self._queues[self._lists[reply[5 + 2 * at] - 1][1] - 1], reply[6 + 2 * at])
            for at in range((len(reply) - 5) // 2)
        ]
        revoked.found(called_off, stamps)
        return Turn(claimed, acknowledged, bool(more), self._lists[broken - 1][0] if broken else "")


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one look for expired leases did; ``forgot`` tells that the broker has lost an earlier one."""

    forgot: bool
    extended: bool
    owners: int
    returned: int
    aside: int


@dataclass(frozen=True, slots=True)
class Aside:
    """A message that cannot be delivered, on its way to the inbox. ``record`` names it in :func:`forget_aside`."""

    record: bytes
    reason: str
    deliveries: int
    queue: str
    message: bytes


class InFlight:
    """One owner's calls. Errors are redis-py's."""

    def __init__(self, client: redis.Redis, keys: Keys, owner: str, lease: float, low_share: float = 0.0) -> None:
        """Name the owner; nothing is stored before its first claim.

        Args:
            lease: seconds after the last sign of life at which its messages go to others.
            low_share: share of claims that begin with the lowest priority.
        """
        self.client = client
        self.keys = keys
        self.owner = owner
        self._lease_ms = int(lease * 1000)
        self._claims = 0
        # One of so many claims begins with the lowest priority: none starves.
        self._every = round(1 / low_share) if low_share else 0
        self._mine = keys.inflight(owner)

    def turn(
        self,
        queues: Sequence[str],
        serial: int,
        want: int,
        acks: Sequence[int],
        *,
        strict: bool = False,
        before: Sequence[Left] = (),
    ) -> Turn:
        """Make a call (:meth:`call`), and those that are given as ``before`` ahead of it, in the same round trip."""
        call = self.call(queues, serial, want, acks, strict=strict)
        if before:
            return call.turn(call_after(self.client.connection_pool, before, claim_script, call.keys, call.args))
        return call.turn(claim_script(self.client, keys=call.keys, args=call.args))

    def call(self, queues: Sequence[str], serial: int, want: int, acks: Sequence[int], *, strict: bool = False) -> Call:
        """Return a call that acknowledges some messages and claims up to ``want`` others, best priority first.

        Args:
            queues: in the order of preference within a priority.
            serial: the last one that was used; claims get the following ones.
            strict: nothing of a queue while anything of one before it waits, whatever the priorities.
        """
        keys = self.keys
        self._claims += 1 if want else 0
        upside_down = bool(want and self._every and not self._claims % self._every)
        lists = [
            (name(queue, step), number)
            for step in (reversed(STEPS) if upside_down else STEPS)
            for number, queue in enumerate(queues, 1)
            for name in (keys.released, keys.ready)
        ]
        if strict:
            lists.sort(key=lambda entry: entry[1])
        return Call(
            [self._mine, keys.owners, keys.paused, *[name for name, _ in lists], *map(keys.wake, queues)],
            [
                self.owner,
                self._lease_ms,
                serial,
                want,
                MARKER_MS,
                MARK,
                len(lists),
                len(queues),
                revoked.version(),
                *[number for _, number in lists],
                *queues,
                *acks,
            ],
            serial,
            want,
            queues,
            lists,
        )

    def give_back(self, serials: Sequence[int]) -> int:
        """Return claimed messages to the front of their queues, uncharged; return how many were still ours."""
        if not serials:
            return 0
        return int(
            _give_back(
                self.client, keys=[self._mine], args=[self.keys.wake_prefix, SEPARATOR, MARKER_MS, *sorted(serials)]
            )
        )

    def renew(self) -> int:
        """Extend the lease; return how many messages the broker counts as ours, -1 if they went to others."""
        return int(_renew(self.client, keys=[self.keys.owners, self._mine], args=[self.owner, self._lease_ms]))

    def serials(self) -> list[int]:
        """Return what the broker counts as ours."""
        return [int(serial) for serial in self.client.hkeys(self._mine)]

    def set_aside(self, serial: int, reason: str) -> None:
        """Take a message that cannot be delivered out of flight, on its way to the inbox."""
        _set_aside(self.client, keys=[self._mine, self.keys.aside], args=[serial, reason])

    def park(self, serial: int, waiting: Waiting) -> bool:
        """Move a claimed message into the line of a limit; False if it was not ours any more."""
        return parking.park(self.client, self.keys, self._mine, serial, waiting)

    def take_over(self, owner: str, serial: int, as_serial: int) -> Claimed | None:
        """Make a message of another owner ours, in one step; None if that owner has lost it."""
        record: Any = _take_over(
            self.client,
            keys=[self.keys.owners, self.keys.inflight(owner), self._mine],
            args=[serial, as_serial, self.owner, self._lease_ms, owner],
        )
        if record is None:
            return None
        _, _, _, length, rest = record.split(b":", 4)
        return Claimed(as_serial, self.keys.queue_of(rest[: int(length)].decode()), rest[int(length) :])

    def leave(self) -> None:
        """Give the lease up if nothing is held."""
        if not self.client.exists(self._mine):
            self.client.zrem(self.keys.owners, self.owner)


def reclaim(client: redis.Redis, keys: Keys, owner: str, finished: Sequence[int], stays: int) -> tuple[int, bool]:
    """Wind up what a dead process held: acknowledge what it finished, return the rest to the queues uncharged.

    Args:
        finished: serials that it had done with, told or not.
        stays: a serial that is left where it is; 0 for none.

    Returns:
        how many were returned, and whether the one that stays is still there.
    """
    reply: Any = _reclaim(
        client,
        keys=[keys.inflight(owner), keys.owners],
        args=[owner, keys.wake_prefix, SEPARATOR, MARKER_MS, stays, *finished],
    )
    return int(reply[0]), bool(reply[1])


def recover(client: redis.Redis, keys: Keys, lease: float, max_deliveries: int, memory: Memory | None = None) -> Sweep:
    """Return messages whose owner's lease ran out; set aside what was delivered ``max_deliveries`` times.

    Args:
        memory: what this process knows of earlier sweeps; brought up to date.
    """
    memory = memory or Memory()
    reply: Any = _recover(
        client,
        keys=[keys.owners, keys.sweeps, keys.aside, keys.setback],
        args=[
            int(lease * 1000),
            max_deliveries,
            keys.inflight_prefix,
            keys.wake_prefix,
            SEPARATOR,
            MARKER_MS,
            MARK,
            KEPT,
            memory.number,
            memory.at,
            memory.life,
        ],
    )
    memory.number, memory.at, memory.life = reply[:3]
    forgot, extended, *counts = reply[3:]
    return Sweep(bool(forgot), bool(extended), *counts)


def aside(client: redis.Redis, keys: Keys, limit: int = 20) -> list[Aside]:
    """Return messages that wait for their way to the inbox, oldest first."""
    found = []
    records: Any = client.lrange(keys.aside, 0, limit - 1)
    for record in records:
        _, reason, deliveries, length, rest = record.split(b":", 4)
        size = int(length)
        found.append(Aside(record, reason.decode(), int(deliveries), keys.queue_of(rest[:size].decode()), rest[size:]))
    return found


def forget_aside(client: redis.Redis, keys: Keys, done: Aside) -> None:
    """Drop a message that is safe in the inbox."""
    client.lrem(keys.aside, 1, done.record)  # type: ignore[arg-type]  # bytes are as good


def count(client: redis.Redis, keys: Keys) -> int:
    """Return how many messages are claimed and not acknowledged, by whomever."""
    owners: Any = client.zrange(keys.owners, 0, -1)
    with client.pipeline(transaction=False) as pipe:
        for owner in owners:
            pipe.hlen(keys.inflight(owner.decode()))
        return sum(pipe.execute())


def hang_up(client: redis.Redis, error: redis.RedisError) -> None:
    """After a call without an answer, close what is idle: connections that a network forgot are seldom alone.

    To wait for one after the other would take longer than a lease.
    """
    if isinstance(error, redis.TimeoutError):
        client.connection_pool.disconnect(inuse_connections=False)
