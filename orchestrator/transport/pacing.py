"""How many messages a process should hold, told by how long its tasks took of late."""

from __future__ import annotations

#: Seconds of work that a process may hold beyond what runs.
HORIZON = 0.1
#: Most messages that one claim takes.
MOST = 64
#: Weight of the newest run in the moving averages.
_WEIGHT = 0.2
#: Task names whose average is kept; more than any project has, fewer than a flood of bad names would make.
_NAMES = 10_000


class Pace:
    """Moving averages of run times, in seconds, overall and by task name."""

    def __init__(self) -> None:
        self._overall: float | None = None
        self._by_name: dict[str, float] = {}

    def note(self, name: str, seconds: float) -> None:
        """Take in how long one run took."""
        before = self._overall
        # One long run must slow the claims at once; short ones may speed them up again little by little.
        self._overall = seconds if before is None else before + _WEIGHT * (seconds - before)
        known = self._by_name.get(name)
        if known is not None:
            self._by_name[name] = known + _WEIGHT * (seconds - known)
        elif len(self._by_name) < _NAMES:
            self._by_name[name] = seconds

    def batch(self, free: int, slots: int) -> int:
        """Return how many messages to claim.

        Args:
            free: slots that can start a task at once.
            slots: all slots; 0 for no limit.
        """
        if self._overall is None:
            return max(1, free)
        expected = int(HORIZON * max(1, slots) / max(self._overall, 1e-6))
        return max(1, free, min(MOST, expected))

    def is_long(self, name: str) -> bool:
        """Whether a task is known to take longer than others should wait behind it."""
        return self._by_name.get(name, 0.0) > HORIZON
