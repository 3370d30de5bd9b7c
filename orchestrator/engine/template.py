"""A text with gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import itemgetter
from typing import Any


class Template:
    """A text, cut at marks, into which values are filled."""

    def __init__(self, text: str, marks: Mapping[str, str]) -> None:
        """Cut.

        Args:
            marks: name of a gap -> what stands there now.
        """
        names = {mark: name for name, mark in marks.items()}
        found = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
        gaps = [names[mark] for mark in found[1::2]]
        self._text = "%s".join(part.replace("%", "%%") for part in found[::2])
        self._pick: Any = itemgetter(*gaps) if len(gaps) > 1 else lambda values: tuple(values[gap] for gap in gaps)

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text; ``values`` may have more than the gaps need."""
        return str(self._text % self._pick(values))
