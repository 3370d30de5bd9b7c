"""What has to be safe before acknowledgements are, such as results of the tasks that they acknowledge."""

from __future__ import annotations

from typing import Protocol


class Companion(Protocol):
    """What has to be safe before the acknowledgements that belong to it are."""

    def due(self) -> float:
        """Return the time on the monotonic clock at which it wants to be sent at the latest; infinity for never."""

    def flush(self) -> bool:
        """Make all of it safe. False, and no exception, if that cannot be done now: acknowledgements wait."""


class Nobody:
    """No companion."""

    def due(self) -> float:
        """Never."""
        return float("inf")

    def flush(self) -> bool:
        """There is nothing to be made safe."""
        return True
