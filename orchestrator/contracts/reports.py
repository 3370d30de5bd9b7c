"""Reports on tasks that leave a pool process together with its answer, for the process that acknowledges.

So they cost no call of their own, and are safe before the acknowledgement is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Task id and stored form of a :class:`~orchestrator.contracts.progress.Record`.
Report = tuple[str, bytes]


class _Desk:
    """What has been collected; None while nobody collects. A pool process has one thread that runs tasks."""

    collected: list[Report] | None = None


@contextmanager
def collecting() -> Iterator[list[Report]]:
    """Collect what is offered while the block runs."""
    found: list[Report] = []
    _Desk.collected = found
    try:
        yield found
    finally:
        _Desk.collected = None


def collected() -> list[Report] | None:
    """Return where to put reports, None if they must be sent from here."""
    return _Desk.collected
