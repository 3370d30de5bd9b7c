"""Part five: an order that is charged twice under one key, and calls that mean one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.demo import tasks
from orchestrator.demo.part import Part
from orchestrator.demo.till import Till

ORDER, AMOUNT, DAY = "A-1042", "19.90", "2026-11-25"
#: How often each is asked for.
CHARGES, STATEMENTS = 2, 5


class Payments(Part):
    """Somebody clicks twice: one charge, two equal receipts. Five calls for one statement: one is written."""

    key = "payments"
    title = "Payments, once each"
    goal = 3

    def __init__(self, till: Till, media: Path) -> None:
        super().__init__()
        self._till = till
        self._statement = media / f"statements/{DAY}.json"
        self._charges: list[str] = []
        self._duplicates: list[Any] = []
        self._run = ""

    def start(self) -> None:
        """Ask for the same charge twice."""
        charge = tasks.named("tasks.payments.charge")
        self._charges = [charge.delay(ORDER, AMOUNT).id for _ in range(CHARGES)]
        self.note = f"order {ORDER} is asked to be charged {CHARGES} times"

    def look(self) -> None:
        """Take the next step when the one before was seen."""
        self.problem = next(filter(None, map(tasks.failure, [*self._charges, *([self._run] if self._run else [])])), "")
        if self.done == 0:
            self._compare()
        elif self.done == 1:
            self._ask_for_statements()
        elif self.done == 2:
            self._read_statement()
        if self._till.charges().get(ORDER, 0) > 1:
            self.problem = f"order {ORDER} was charged {self._till.charges()[ORDER]} times"

    def counts(self) -> dict[str, Any]:
        """Return how often what was asked for, and what came of it."""
        return {
            "charge_asked_for": CHARGES,
            "charged": self._till.charges().get(ORDER, 0),
            "receipts": len(self._receipts()),
            "statement_asked_for": STATEMENTS,
            "told_duplicates": len(self._duplicates),
            "statements": TaskResult.objects.filter(task_name="tasks.payments.write_statement").count(),
        }

    def _receipts(self) -> set[str]:
        """Return the different receipts that the callers got."""
        results = [get_app().AsyncResult(task_id) for task_id in self._charges]
        return {result.result["receipt"] for result in results if result.state == "SUCCESS"}

    def _compare(self) -> None:
        if not all(tasks.succeeded(task_id) for task_id in self._charges):
            return
        if len(self._receipts()) != 1:
            self.problem = f"the callers got different receipts: {', '.join(sorted(self._receipts()))}"
            return
        self.done = 1
        self.note = f"charged once, {CHARGES} equal receipts"

    def _ask_for_statements(self) -> None:
        statement = tasks.named("tasks.payments.write_statement")
        first, *others = [statement.delay(DAY) for _ in range(STATEMENTS)]
        self._run = first.id
        self._duplicates = [sent for sent in others if sent.duplicate_of == first.id]
        if len(self._duplicates) != STATEMENTS - 1:
            self.problem = f"only {len(self._duplicates)} of {STATEMENTS - 1} callers were told of the first one"
            return
        self.done = 2
        self.note = f"{STATEMENTS} calls for a statement, {len(self._duplicates)} are told that they are duplicates"

    def _read_statement(self) -> None:
        if not tasks.succeeded(self._run):
            return
        if json.loads(self._statement.read_text()) != {ORDER: 1}:
            self.problem = "the statement does not say what was charged"
            return
        self.done = 3
        self.note = f"charged once of {CHARGES}, one statement for {STATEMENTS} calls"
