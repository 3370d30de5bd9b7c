"""What a person sees of the demo: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from orchestrator.demo.part import Part


class Screen:
    """Shows parts while they run and a summary at the end.

    Args:
        console: Where to.
        quiet: Show nothing unless it is a terminal.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._live: Live | None = None
        self._plain = not console.is_terminal and not quiet
        self._said: dict[str, str] = {}
        self._spinner = Spinner("dots")

    def say(self, text: str) -> None:
        """Show one line."""
        if self._console.is_terminal or self._plain:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, parts: Sequence[Part]) -> None:
        """Show where the parts stand."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=8, transient=True)
                self._live.start()
            self._live.update(self._table(parts))
        elif self._plain:
            for part in parts:
                line = f"{part.title}: {part.problem or part.note}"
                if self._said.get(part.key) != line:
                    self._said[part.key] = line
                    self.say(line)

    def summarise(self, parts: Sequence[Part], seconds: float) -> None:
        """Show what was seen, once all is over."""
        self.close()
        if not self._console.is_terminal and not self._plain:
            return
        table = Table(title=f"Seen in {seconds:.1f} s", title_justify="left")
        table.add_column("")
        table.add_column("Part")
        table.add_column("What was seen", overflow="fold")
        for part in parts:
            good = not part.missing()
            table.add_row("[green]ok[/]" if good else "[red]missing[/]", part.title, _sentence(part.counts()))
        self._console.print(table)

    def close(self) -> None:
        """End the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, parts: Sequence[Part]) -> Table:
        table = Table.grid(padding=(0, 2))
        for part in parts:
            mark: Any = "[red]✗[/]" if part.problem else "[green]✓[/]" if part.finished else self._spinner
            bar = ProgressBar(total=part.goal, completed=min(part.done, part.goal), width=24)
            table.add_row(mark, part.title, bar, f"{min(part.done, part.goal)}/{part.goal}", part.problem or part.note)
        return table


def _sentence(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())
