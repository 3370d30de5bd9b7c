"""Part five: an order that is charged twice under one key, others that meet limits, and calls that mean one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.demo import tasks
from orchestrator.demo.part import Part
from orchestrator.demo.till import Till
from orchestrator.limits import services

ORDER, AMOUNT, DAY = "A-1042", "19.90", "2026-11-25"
#: How often each is asked for.
CHARGES, STATEMENTS = 2, 5
#: Further orders, and what the task's limits say of them: so many a second, so many at once.
OTHERS = [f"A-{number}" for number in range(1043, 1053)]
A_SECOND, AT_ONCE = 5, 1
RATE, SLOT = "payments", "payment connections"
#: What the way from the worker's start to the till may add to a second.
OVERTAKING = 1


class Payments(Part):
    """Somebody clicks twice: one charge, two equal receipts. Others wait for limits. Five calls, one statement."""

    key = "payments"
    title = "Payments, once each"
    goal = 4

    def __init__(self, till: Till, media: Path) -> None:
        super().__init__()
        self._till = till
        self._statement = media / f"statements/{DAY}.json"
        self._charges: list[str] = []
        self._others: list[str] = []
        #: Limit -> messages that waited for it, at most.
        self._waited = {RATE: 0, SLOT: 0}
        self._duplicates: list[Any] = []
        self._run = ""

    def start(self) -> None:
        """Ask for the same charge twice."""
        charge = tasks.named("tasks.payments.charge")
        self._charges = [charge.delay(ORDER, AMOUNT).id for _ in range(CHARGES)]
        self._others = [charge.delay(order, AMOUNT).id for order in OTHERS]
        self.note = f"order {ORDER} is asked to be charged {CHARGES} times, {len(OTHERS)} others once"

    def look(self) -> None:
        """Take the next step when the one before was seen."""
        asked = [*self._charges, *self._others, *([self._run] if self._run else [])]
        self.problem = next(filter(None, map(tasks.failure, asked)), "")
        steps = (self._compare, self._count_others, self._ask_for_statements, self._read_statement)
        for state in services.states() if self.done < 2 else ():
            if state.name in self._waited:
                self._waited[state.name] = max(self._waited[state.name], state.waiting)
        if self.done < len(steps):
            steps[self.done]()
        if self._till.charges().get(ORDER, 0) > 1:
            self.problem = f"order {ORDER} was charged {self._till.charges()[ORDER]} times"

    def counts(self) -> dict[str, Any]:
        """Return how often what was asked for, and what came of it."""
        return {
            "charge_asked_for": CHARGES,
            "charged": self._till.charges().get(ORDER, 0),
            "receipts": len(self._receipts()),
            "others": len(OTHERS),
            "others_charged": sum(self._till.charges().get(order, 0) for order in OTHERS),
            "most_in_a_second": self._till.most_in_a_second(),
            "most_at_once": self._till.most_at_once,
            "waited_for_the_rate": self._waited[RATE],
            "waited_for_the_slot": self._waited[SLOT],
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

    def _count_others(self) -> None:
        if not all(tasks.succeeded(task_id) for task_id in self._others):
            return
        if self._till.most_in_a_second() > A_SECOND + OVERTAKING or self._till.most_at_once > AT_ONCE:
            self.problem = (
                f"{self._till.most_in_a_second()} charges came in a second, {self._till.most_at_once} at once: "
                f"more than {A_SECOND} and {AT_ONCE}"
            )
            return
        self.done = 2
        waited = max(self._waited.values())
        self.note = f"{len(OTHERS)} more charged, {A_SECOND} a second and {AT_ONCE} at once; {waited} waited in line"

    def _ask_for_statements(self) -> None:
        statement = tasks.named("tasks.payments.write_statement")
        first, *others = [statement.delay(DAY) for _ in range(STATEMENTS)]
        self._run = first.id
        self._duplicates = [sent for sent in others if sent.duplicate_of == first.id]
        if len(self._duplicates) != STATEMENTS - 1:
            self.problem = f"only {len(self._duplicates)} of {STATEMENTS - 1} callers were told of the first one"
            return
        self.done = 3
        self.note = f"{STATEMENTS} calls for a statement, {len(self._duplicates)} are told that they are duplicates"

    def _read_statement(self) -> None:
        if not tasks.succeeded(self._run):
            return
        if json.loads(self._statement.read_text()) != dict.fromkeys([ORDER, *OTHERS], 1):
            self.problem = "the statement does not say what was charged"
            return
        self.done = 4
        self.note = f"charged once of {CHARGES}, one statement for {STATEMENTS} calls"
