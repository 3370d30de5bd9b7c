"""Rate limits and slots in Redis: several at once, all or none, in one step; and the lines of who waits for them.

The lines lie beside the counts, so that the step that frees something also releases who is next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.contracts.limiting import Asking, Charge, Granted, Limited, Waiting
from orchestrator.contracts.ports import Lease
from orchestrator.stores.redis.leases import RedisLeases, milliseconds
from orchestrator.stores.redis.renewal import Renewal
from orchestrator.stores.redis.scripts import Script

_acquire = Script("lease", "limits", "limits_acquire")
_release = Script("limits", "limits_release")
_renew = Script("limits_renew")
_hold = Script("limits", "limits_hold")
_change = Script("limits", "limits_change")
#: The transport's: what it runs on its own connection.
park_script = Script("limits", "limits_park")
due_script = Script("limits", "limits_due")

#: Keys after the prefix; part of the format.
CHANGED, MESSAGES, SPECS = "limits:changed", "parked:messages", "parked:specs"
LINE, LINES, SLOTS = "parked:", "parked:due", "limit:c:"
#: Lines that one call looks at.
LINES_AT_ONCE = 16
#: Milliseconds that a priority step is worth where nothing ages: more than anything waits.
STRICT = 10**12


def bonus(priority: int, aging: float | None) -> int:
    """Return how many milliseconds earlier a message of a priority counts as having come.

    Args:
        aging: seconds of waiting that make up for one step of priority; None for never.
    """
    return priority * (STRICT if aging is None else max(1, int(aging * 1000)))


class RedisLimits:
    """Limits in Redis (:class:`~orchestrator.contracts.limiting.LimitStore`). Time is Redis's own."""

    def __init__(self, leases: RedisLeases, aging: float | None) -> None:
        self._leases = leases
        self._aging = aging
        self._renewal = Renewal(self._renew_slot)

    @property
    def prefix(self) -> str:
        """Stands before every key."""
        return self._leases.prefix

    def acquire(self, asking: Asking, charges: Sequence[Charge], lease: float) -> Granted | Limited:
        """Take all charges or none, in one round trip.

        Args:
            lease: seconds that a slot lasts without being renewed.

        Raises:
            StoreUnavailable: Redis cannot be asked. What it may have granted is lost to nobody for longer than
                the period, or the lease.
        """
        args: list[object] = [
            self.prefix,
            asking.owner,
            asking.task_id,
            bonus(asking.priority, self._aging),
            milliseconds(lease),
            int(asking.patience * 1_000_000),
        ]
        for charge in charges:
            args += (charge.id, charge.spec, charge.units)
        found: Any = self._leases.run(_acquire, [self._leases.fences], args)
        if found[0]:
            return Granted(found[1] / 1_000_000, int(found[2] or 0))
        return Limited(charges[found[1] - 1], found[2] / 1_000_000, found[3].decode())

    def release(self, owner: str, slots: Sequence[str], *, soon: bool = False) -> None:
        """Give slots back; whoever waits for one is released in the same step.

        Args:
            soon: whether it can wait for the next call.

        Raises:
            StoreUnavailable: Redis cannot be asked; they free themselves when their lease runs out.
        """
        (self._leases.leave if soon else self._leases.run)(_release, [], [self.prefix, owner, *slots])

    @contextmanager
    def keep(self, owner: str, slots: Sequence[str], fence: int, seconds: float) -> Iterator[None]:
        """Renew slots in the background for as long as the block runs."""
        leases = [Lease(one, owner, fence) for one in slots]
        for one in leases:
            self._renewal.begin(one, seconds)
        try:
            yield
        finally:
            for one in leases:
                self._renewal.end(one)

    def _renew_slot(self, lease: Lease, seconds: float) -> bool:
        key = self.prefix + SLOTS + lease.key
        return bool(self._leases.run(_renew, [key], [lease.owner, milliseconds(seconds)]))

    def hold(self, ids: Sequence[str], seconds: float) -> None:
        """Grant nothing under these limits for a while, because the far side said so.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        self._leases.run(_hold, [], [self.prefix, int(seconds * 1_000_000), *ids])

    def change(self, name: str, count: int, period: int = 0, burst: int = 1) -> None:
        """Let a limit be another than declared, for everybody, from now on.

        Args:
            period: microseconds.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        self._leases.run(_change, [], [self.prefix, name, f"{count} {period} {burst}"])

    def restore(self, name: str) -> None:
        """Let a limit be as declared; errors as for :meth:`change`."""
        self._leases.run(_change, [], [self.prefix, name, ""])

    def changes(self) -> Mapping[str, tuple[int, int, int]]:
        """Return count, period and burst of every changed limit, by name; errors as for :meth:`change`."""
        found: Mapping[bytes, bytes] = self._ask(lambda redis: redis.hgetall(self.prefix + CHANGED))
        return {name.decode(): tuple(map(int, spec.split())) for name, spec in found.items()}  # type: ignore[misc]

    def waiting(self) -> dict[str, int]:
        """Return how many messages wait for each limit, by name; errors as for :meth:`change`."""
        counts, specs = self.parked(), self._ask(lambda redis: redis.hgetall(self.prefix + SPECS))
        found: dict[str, int] = {}
        for one, spec in specs.items():
            name = spec.decode().split(" ", 4)[4]
            found[name] = found.get(name, 0) + counts.get(one.decode(), 0)
        return found

    def parked(self) -> dict[str, int]:
        """Return how many messages wait for each limit, by id; errors as for :meth:`change`."""
        ids = [one.decode() for one in self._ask(lambda redis: redis.zrange(self.prefix + LINES, 0, -1))]

        def sizes(redis: Any) -> list[int]:
            with redis.pipeline(transaction=False) as pipe:
                for one in ids:
                    pipe.zcard(self.prefix + LINE + one)
                return list(pipe.execute())

        return dict(zip(ids, self._ask(sizes), strict=True))

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        return self._leases.ask(question)


def park_arguments(prefix: str, serial: int, waiting: Waiting, aging: float | None) -> list[object]:
    """Return what :data:`park_script` is told, but for the last two."""
    head = [prefix, serial, waiting.id, waiting.spec, waiting.units, waiting.place]
    return [*head, bonus(waiting.priority, aging), waiting.task_id]
