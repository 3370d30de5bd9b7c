"""The documentation as data: pages, their code blocks and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "orchestrator" / "docs"


@dataclass(frozen=True)
class Block:
    """One fenced block; ``title`` is what its first line says after a comment sign."""

    language: str
    text: str

    @property
    def title(self) -> str:
        """The comment in the first line, or ""."""
        first = self.text.split("\n", 1)[0]
        return first.removeprefix("# ") if first.startswith("# ") else ""


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Path from the top level."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """What stands in it."""
        return self.path.read_text("utf-8")

    @cached_property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def blocks(self, language: str) -> list[Block]:
        """Its fenced blocks in one language."""
        found = re.findall(rf"^```{language}\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        return [Block(language, text) for text in found]

    def block(self, title: str) -> str:
        """The text of the block whose first line is this comment."""
        (found,) = [block for block in self.blocks(r"\w+") if block.title == title]
        return found.text

    def commands(self) -> list[str]:
        """Every line of its shell blocks that is a command."""
        lines = [line for block in self.blocks("shell") for line in block.text.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]

    def rows(self, heading: str) -> list[list[str]]:
        """Cells of the first table under a heading, without its head."""
        _, _, after = f"\n{self.text}".partition(f"\n{heading}\n")
        assert after, f"{self.name} has no heading {heading!r}"
        table = []
        for line in after.splitlines():
            if line.startswith("|"):
                table.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            elif table or line.startswith("#"):
                break
        return table[2:]

    def anchors(self) -> set[str]:
        """Fragments that a link may name."""
        titles = re.findall(r"^#+ (.+)$", self.prose, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def pages() -> list[Page]:
    """Every page of the project."""
    return [Page(ROOT / "README.md"), Page(ROOT / "CHANGELOG.md"), *(Page(p) for p in sorted(DOCS.rglob("*.md")))]


def page(name: str) -> Page:
    """One page under docs."""
    return Page(DOCS / name)
