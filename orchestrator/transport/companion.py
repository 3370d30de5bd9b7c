"""What has to be safe before acknowledgements are, such as results of the tasks that they acknowledge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Companion(Protocol):
    """What has to be safe before the acknowledgements that belong to it are."""

    @property
    def urgent(self) -> bool:
        """Whether it wants to be sent before this process waits for messages."""

    @property
    def safe(self) -> bool:
        """Whether it holds nothing that has to be safe before acknowledgements are."""

    def due(self) -> float:
        """Return the time on the monotonic clock at which it wants to be sent at the latest; infinity for never."""

    def before(self) -> Sequence[Any]:
        """Return calls that make it safe if the broker carries them out; none where it takes more, or nothing waits."""

    def flush(self) -> bool:
        """Make all of it safe. False, and no exception, if that cannot be done now: acknowledgements wait."""


class Company:
    """Several companions as one, of whatever number; none is safe before all are."""

    def __init__(self) -> None:
        self._members: tuple[Companion, ...] = ()

    def join(self, companion: Companion, *, first: bool = False) -> None:
        """Add one, in place of an earlier one of its class; ``first``: it is made safe before the others."""
        others = [one for one in self._members if type(one) is not type(companion)]
        self._members = (companion, *others) if first else (*others, companion)

    @property
    def urgent(self) -> bool:
        """Whether one of them wants to be sent before this process waits for messages."""
        return any(one.urgent for one in self._members)

    @property
    def safe(self) -> bool:
        """Whether none of them holds anything that has to be safe before acknowledgements are."""
        return all(one.safe for one in self._members)

    def hasten(self) -> None:
        """Send those that want to be sent before this process waits for messages."""
        for one in self._members:
            if one.urgent:
                one.flush()

    def due(self) -> float:
        """Return the first time at which one of them wants to be sent."""
        return min((one.due() for one in self._members), default=float("inf"))

    def before(self) -> Sequence[Any]:
        """Return calls after which all of them are safe, if the broker carries them out; none where that is not so."""
        found: list[Any] = []
        others = []
        for one in self._members:
            some = one.before()
            found.extend(some)
            if not some:
                others.append(one)
        if not found or not all(one.safe for one in others):
            return ()
        # What may wait for no acknowledgement has no other occasion.
        done = [one.flush() for one in others]
        return found if all(done) else ()

    def flush(self) -> bool:
        """Make all of them safe, as far as it can be done now."""
        done = [one.flush() for one in self._members]
        return all(done)
