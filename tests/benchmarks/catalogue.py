"""Every benchmark by name. A part that adds one adds a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Budget:
    """How much to measure: at most ``runs`` pairs, and no new pair after ``seconds``."""

    runs: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome: medians of paired, interleaved runs.

    ``ratio``, ``min`` and ``max`` are of ours / peer within a pair.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    min: float
    max: float
    runs: int
    unit: str
    #: What a benchmark adds to these fields, by name.
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_pairs(cls, name: str, pairs: list[tuple[float, float]], unit: str, **more: Any) -> Result:
        """Sum up (ours, peer) pairs."""
        ratios = [ours / peer for ours, peer in pairs]
        return cls(
            name=name,
            ours=round(median(ours for ours, _ in pairs), 2),
            peer=round(median(peer for _, peer in pairs), 2),
            ratio=round(median(ratios), 4),
            min=round(min(ratios), 4),
            max=round(max(ratios), 4),
            runs=len(pairs),
            unit=unit,
            more=more,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        data = asdict(self)
        return {**{key: value for key, value in data.items() if key != "more"}, **self.more}


def benchmarks() -> dict[str, Callable[[Budget], Result]]:
    """Return name -> function."""
    from tests.benchmarks import (
        backlog,
        bulk_enqueue,
        delay_one_by_one,
        delayed,
        fairness,
        latency,
        memory_per_message,
        outbox_latency,
        overhead,
        policies,
        results,
        throughput,
        throughput_peers,
    )

    return {
        "overhead": overhead.run,
        "throughput": throughput.run,
        "throughput_peers": throughput_peers.run,
        "delay_one_by_one": delay_one_by_one.run,
        "bulk_enqueue": bulk_enqueue.run,
        "memory_per_message": memory_per_message.run,
        "latency": latency.run,
        "outbox_latency": outbox_latency.run,
        "backlog": backlog.run,
        "delayed": delayed.run,
        "policies": policies.run,
        "results_postgresql": results.on_postgresql,
        "results_sqlite": results.on_sqlite,
        "fairness": fairness.run,
    }
