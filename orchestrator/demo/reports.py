"""Part two: a PDF report that the database scheduler orders every few seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import TaskResult

from orchestrator.demo.part import Part

EVERY = 3
NAME = "Usage report (demo)"


class Reports(Part):
    """A schedule written as a row, as a person would in the admin; seen as files."""

    key = "report"
    title = f"PDF report every {EVERY} s"
    goal = 2

    def __init__(self, media: Path) -> None:
        super().__init__()
        self.note = "waiting for the scheduler"
        self._directory = media / "reports"
        self._pages: dict[Path, int] = {}
        self._ordered: tuple[str, ...] = ()

    def prepare(self) -> None:
        """Write the schedule."""
        every, _ = IntervalSchedule.objects.get_or_create(every=EVERY, period=IntervalSchedule.SECONDS)
        PeriodicTask.objects.create(
            name=NAME,
            interval=every,
            task="tasks.reports.usage_report",
            kwargs=json.dumps({"title": "Tasks of the demo", "hours": 1}),
        )

    def start(self) -> None:
        """Nothing to publish: that is the scheduler's work."""

    def look(self) -> None:
        """Read the files that appeared."""
        for path in self._directory.glob("*.pdf"):
            if path not in self._pages:
                self._pages[path] = pdf_pages(path)
        broken = [path.name for path, pages in self._pages.items() if not pages]
        self.problem = f"{broken[0]} is no whole PDF" if broken else ""
        self._ordered = self._ordered_by_schedule()
        # The report carries the id of its task in its name.
        self.done = sum(1 for path in self._pages if path.stem.endswith(self._ordered))
        if self.done:
            self.note = f"{self.done} ordered by the scheduler, written and whole"

    def counts(self) -> dict[str, Any]:
        """Return the number of files and orders."""
        return {
            "every_seconds": EVERY,
            "ordered_by_scheduler": len(self._ordered),
            "written": len(self._pages),
            "pages": sum(self._pages.values()),
        }

    def _ordered_by_schedule(self) -> tuple[str, ...]:
        """Return the ids of finished tasks whose message names the schedule that sent it."""
        finished = TaskResult.objects.filter(periodic_task_name=NAME, status="SUCCESS")
        return tuple(finished.values_list("task_id", flat=True))


def pdf_pages(path: Path) -> int:
    """Return the number of pages of a PDF file, 0 if it is not whole.

    Whole means: the right first line, a trailer that points at the cross-reference
    table, and the end marker.
    """
    content = path.read_bytes()
    trailer = re.search(rb"startxref\s+(\d+)\s+%%EOF\s*\Z", content)
    if not content.startswith(b"%PDF-") or trailer is None or content[int(trailer[1]) :][:4] != b"xref":
        return 0
    return len(re.findall(rb"/Type\s*/Page\b", content))
