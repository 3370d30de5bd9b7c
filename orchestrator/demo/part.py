"""What the demo shows, part by part: started once, looked at until it is seen to be done."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar


class Part(ABC):
    """One thing that the demo does for real and watches from outside.

    ``done`` of ``goal`` steps were seen; ``note`` says in a few words where it stands;
    ``problem`` is set once it is clear that it cannot succeed any more.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    goal: ClassVar[int]

    def __init__(self) -> None:
        self.done = 0
        self.note = "waiting for a worker"
        self.problem = ""

    @property
    def finished(self) -> bool:
        """Whether all of it was seen."""
        return self.done >= self.goal

    def prepare(self) -> None:  # noqa: B027 - most parts need nothing
        """Write what must be there before the processes start."""

    @abstractmethod
    def start(self) -> None:
        """Publish the first task."""

    @abstractmethod
    def look(self) -> None:
        """Update ``done``, ``note`` and ``problem`` from what can be seen."""

    @abstractmethod
    def counts(self) -> dict[str, Any]:
        """Return what was seen, for the summary and ``--json``."""

    def missing(self) -> str:
        """Return what was not seen, '' if nothing is missing."""
        if self.problem:
            return f"{self.title}: {self.problem}"
        if not self.finished:
            return f"{self.title}: {self.done} of {self.goal} seen; {self.note}"
        return ""
