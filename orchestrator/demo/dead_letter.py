"""Part four: a task that fails for good, its dead letter, and its redrive to success."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.demo import tasks
from orchestrator.demo.part import Part

SOURCE = "incoming/prices.csv"
PRICES = "sku,price,currency\nA-100,19.90,EUR\nA-200,4.50,EUR\nB-300,120,EUR\n"


class Redrive(Part):
    """The nightly import finds no file; the file arrives; the same message runs again."""

    key = "dead_letter"
    title = "Failure, inbox, redrive"
    goal = 3

    def __init__(self, media: Path) -> None:
        super().__init__()
        self._media = media
        self.task_id = ""
        self._letter: DeadLetter | None = None
        self._new_id = ""

    def start(self) -> None:
        """Order an import of a file that is not there."""
        self.task_id = tasks.named("tasks.maintenance.import_price_list").delay(source=SOURCE).id
        self.note = "an import is ordered, and its file is missing"

    def look(self) -> None:
        """Take the next step when the one before was seen."""
        if self._letter is None:
            self._find()
        elif not self._new_id:
            self._mend()
        elif self.done == 2:
            self.problem = tasks.failure(self._new_id)
            if tasks.succeeded(self._new_id):
                self._settle(self._letter)

    def counts(self) -> dict[str, Any]:
        """Return the letter's story."""
        letter = self._letter
        return {
            "reason": letter.reason if letter else "",
            "attempts": letter.retries + 1 if letter else 0,
            "history": len(letter.history) if letter else 0,
            "redriven": int(bool(self._new_id)),
            "succeeded": int(self.finished),
        }

    def _find(self) -> None:
        letter = DeadLetter.objects.filter(task_id=self.task_id).first()
        if letter is None:
            return
        if letter.reason != "retries_exhausted" or not letter.history or "price list" not in letter.error_message:
            self.problem = (
                f"the letter says {letter.reason}, {len(letter.history)} attempts before, {letter.error_message}"
            )
            return
        self._letter = letter
        self.done = 1
        self.note = f"in the inbox after {letter.retries + 1} attempts: {letter.error_type}"

    def _mend(self) -> None:
        assert self._letter is not None  # noqa: S101
        path = self._media / SOURCE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PRICES)
        self._new_id = services.redrive(self._letter.pk, actor="demo")
        self.done = 2
        self.note = "file is there, redriven"

    def _settle(self, letter: DeadLetter) -> None:
        letter.refresh_from_db()
        if letter.state != State.REDRIVEN or letter.redriven_as != self._new_id:
            self.problem = f"the letter is {letter.state} as {letter.redriven_as!r}, not redriven as {self._new_id!r}"
        elif not (self._media / "catalogue.json").is_file():
            self.problem = "the redriven import succeeded without writing its catalogue"
        else:
            self.done = 3
            self.note = f"died after {letter.retries + 1} attempts, redriven to success"
