"""Lines of many processes on one terminal, or in one file."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TextIO

_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Console:
    """Prints one line at a time, prefixed with the name of the process that said it."""

    def __init__(self, names: list[str], *, colour: bool | None = None, out: TextIO | None = None) -> None:
        """Prepare.

        Args:
            names: Everyone who will speak; fixes the width of the prefix and the colours.
            colour: None decides by the terminal and ``NO_COLOR``.
        """
        self._out = out or sys.stdout
        if colour is None:
            colour = self._out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._colour = colour
        self._width = max(map(len, [*names, "up"]))
        self._codes = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
        self.closed = False

    def line(self, name: str, text: str) -> None:
        """Print a line of a process."""
        prefix = f"{name:<{self._width}} |"
        if self._colour:
            prefix = f"\x1b[{self._codes.get(name, 1)}m{prefix}\x1b[0m"
        else:
            text = _ESCAPES.sub("", text)
        self._write(f"{prefix} {text}\n")

    def say(self, text: str) -> None:
        """Print a line of the supervisor itself."""
        self.line("up", text)

    def plain(self, text: str) -> None:
        """Print a block as it is."""
        self._write(f"{text}\n")

    def bold(self, text: str) -> str:
        """Return the text, emphasised where that is possible."""
        return f"\x1b[1m{text}\x1b[0m" if self._colour else text

    def _write(self, text: str) -> None:
        # A terminal or pipe that is gone must not keep us from stopping in order.
        if self.closed:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):
            self.closed = True
            with contextlib.suppress(OSError, ValueError):
                self._out.close()
