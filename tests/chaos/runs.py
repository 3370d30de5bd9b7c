"""What the far side saw of each task of :mod:`tests.support.labour`: who began it when, and who ended it when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

from tests.support import far_side


@dataclass
class Runs:
    """Starts and ends of one task, by time; each with ``at`` and ``pid``."""

    starts: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)

    def elsewhere(self, pids: Container[int], after: float) -> float | None:
        """Return when others than these processes began it after a moment."""
        return min((one["at"] for one in self.starts if one["pid"] not in pids and one["at"] > after), default=None)


def read_runs() -> defaultdict[str, Runs]:
    """Return what happened, by the task's key."""
    found: defaultdict[str, Runs] = defaultdict(Runs)
    for effect in far_side.effects():
        key, _, kind = effect["key"].rpartition(":")
        (found[key].starts if kind == "start" else found[key].ends).append(effect)
    return found
