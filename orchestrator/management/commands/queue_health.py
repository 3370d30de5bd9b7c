"""``manage.py queue_health``: the numbers per queue and a verdict."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from orchestrator.monitoring import report


class Command(BaseCommand):
    """Prints what :mod:`orchestrator.monitoring.report` finds."""

    help = (
        "Show the queues, workers, relays and dead letters, with a verdict. "
        "Exit code: 0 healthy, 1 degraded, 2 a part that everything stands on cannot be reached."
    )
    # A probe asks what is; checks of the settings have their own command.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--json", action="store_true", help="print one JSON object")
        parser.add_argument(
            "--only",
            nargs="+",
            choices=report.names(),
            default=[],
            metavar="CHECK",
            help=f"ask only these: {', '.join(report.names())}",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the report and exit with its verdict."""
        found = report.report(frozenset(options["only"]))
        if options["json"]:
            self.stdout.write(json.dumps(found.as_json()))
        else:
            self._print(found)
        sys.exit(found.verdict)

    def _print(self, found: report.Report) -> None:
        for result in found.results:
            style = self.style.SUCCESS if result.verdict == 0 else self.style.ERROR
            self.stdout.write(f"{result.name:<14}{style(result.verdict.word):<12} {result.remark}")
        for queue in found.queues or ():
            detail = ", ".join(f"priority {level}: {count}" for level, count in queue.by_priority.items())
            self.stdout.write(f"  queue {queue.name}: {queue.ready} ready" + (f" ({detail})" if detail else ""))
        if found.in_flight is not None:
            self.stdout.write(f"  in flight: {found.in_flight}")
        if found.delayed is not None:
            self.stdout.write(f"  delayed: {found.delayed}")
        for limit, count in (found.parked or {}).items():
            self.stdout.write(f"  waiting for limit {limit}: {count}")
        self.stdout.write(f"verdict: {found.verdict.word}")
