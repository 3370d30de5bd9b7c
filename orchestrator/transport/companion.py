"""What has to be safe before acknowledgements are, such as results of the tasks that they acknowledge."""

from __future__ import annotations

from typing import Protocol


class Companion(Protocol):
    """What has to be safe before the acknowledgements that belong to it are."""

    def due(self) -> float:
        """Return the time on the monotonic clock at which it wants to be sent at the latest; infinity for never."""

    def flush(self) -> bool:
        """Make all of it safe. False, and no exception, if that cannot be done now: acknowledgements wait."""


class Company:
    """Several companions as one, of whatever number; none is safe before all are."""

    def __init__(self) -> None:
        self._members: tuple[Companion, ...] = ()

    def join(self, companion: Companion) -> None:
        """Add one, in place of an earlier one of its class."""
        others = (one for one in self._members if type(one) is not type(companion))
        self._members = (*others, companion)

    def due(self) -> float:
        """Return the first time at which one of them wants to be sent."""
        return min((one.due() for one in self._members), default=float("inf"))

    def flush(self) -> bool:
        """Make all of them safe, as far as it can be done now."""
        done = [one.flush() for one in self._members]
        return all(done)
