"""What ``up`` tells its user once everything is there."""

from __future__ import annotations

import time

from orchestrator.launch.console import Console
from orchestrator.launch.readiness import Readiness

#: Seconds until a page that does not answer is mentioned.
PATIENCE = 60.0


class Banner:
    """Says where everything is, once it really answers."""

    def __init__(self, console: Console, urls: dict[str, str], began: float) -> None:
        self.facts: dict[str, str] = {}
        self.notes: list[str] = []
        self._console = console
        self._urls = urls
        self._began = began
        self._warn_at = began + PATIENCE
        self._readiness = Readiness(urls)
        self._readiness.start()
        self._done = False

    def tick(self) -> None:
        """Look whether it is time to speak."""
        if self._done:
            return
        if not self._readiness.missing:
            self._done = True
            self._show()
        elif time.monotonic() > self._warn_at:
            self._warn_at += PATIENCE
            for name in self._readiness.missing:
                self._console.say(f"{name} does not answer yet at {self._urls[name]}; its lines above may say why")

    def _show(self) -> None:
        rows = {**{name.capitalize(): url for name, url in self._urls.items()}, **self.facts}
        lines = ["", self._console.bold(f"  Orchestrator runs, after {time.monotonic() - self._began:.1f} s."), ""]
        lines += [f"    {label:<10}{text}" for label, text in rows.items()]
        lines += ["", *(f"    Note: {note}" for note in self.notes), "    Ctrl-C stops everything.", ""]
        self._console.plain("\n".join(lines))
