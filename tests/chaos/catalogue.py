"""Every chaos scenario by name. A part that adds one adds a line here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Orders:
    """How a scenario is to be played; the same orders give the same moves, not the same timing."""

    seed: int
    #: How long there is trouble; waiting for the recovery comes after that.
    seconds: float
    #: How many tasks; None leaves it to the scenario.
    tasks: int | None = None

    def dice(self) -> random.Random:
        """Return the source of all chance in a scenario."""
        return random.Random(self.seed)


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        asked: tasks that were asked for and confirmed.
        took_effect: of those, how many took effect in the outside world.
        lost: without any ending: no success, no dead letter.
        doubled: more than one ending, or more effects than one ending explains.
        leaked: what is left behind: messages, claims, letters that are not rows, processes.
        recovery_s: seconds from the end of the trouble until everything had its ending.
    """

    name: str
    seed: int
    asked: int
    took_effect: int
    lost: int
    doubled: int
    leaked: int
    recovery_s: float
    #: What a scenario adds to these fields, by name.
    more: Mapping[str, Any] = field(default_factory=dict)
    #: Whether its tasks promise no more than to take effect at least once.
    may_repeat: bool = False
    #: How many of those that are lost the platform has told of by itself, where a loss cannot be helped.
    told: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was lost untold, nothing took effect twice that must not, and nothing is left behind."""
        return self.lost == self.told and not self.leaked and (self.may_repeat or not self.doubled)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        names = ("name", "seed", "asked", "took_effect", "lost", "doubled", "leaked", "recovery_s")
        return {**{name: getattr(self, name) for name in names}, **self.more}


#: Name -> module whose ``run`` plays it. By path, since a scenario imports Django's models.
SCENARIOS: Mapping[str, str] = {
    "endings": "tests.chaos.endings",
    "child_kill": "tests.chaos.child_kill",
    "redrive": "tests.chaos.redrive",
    "charges": "tests.chaos.charges",
    "outbox": "tests.chaos.outbox",
    "worker_kill": "tests.chaos.worker_kill",
    "broker_restart": "tests.chaos.broker_restart",
    "results": "tests.chaos.results",
    "chords": "tests.chaos.chords",
    "connection_cuts": "tests.chaos.connection_cuts",
    "limits": "tests.chaos.limits",
    "deploys": "tests.chaos.deploys",
    "lost_tail": "tests.chaos.lost_tail",
    "partition": "tests.chaos.partition",
}


def scenario(name: str) -> Callable[[Orders], Report]:
    """Return a scenario. Needs Django set up."""
    run: Callable[[Orders], Report] = import_module(SCENARIOS[name]).run
    return run
