"""``manage.py retry_failed_jobs``: redrive, or discard, dead letters by filter from the shell."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFailure

from orchestrator.audit.commands import acting
from orchestrator.contracts.errors import ConfigurationError
from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters.models import State
from orchestrator.deadletters.services import Filter, Report, discard_where, redrive_where

#: Options that make up the filter: option -> help.
CONDITIONS = {
    "task": "task name, or its beginning and an asterisk: 'mail.*'",
    "queue": "queue name",
    "reason": f"why it died: {', '.join(reason.value for reason in Reason)}",
    "error-type": "exception class, with or without its module",
    "text": "text in the task, ids, error or redacted arguments, in any case",
    "fingerprint": "one group of equal failures",
    "since": "died at or after this time, such as 2026-01-31T08:00",
    "until": "died before this time",
}

#: Exit codes.
INCOMPLETE, REFUSED = 1, 2

EPILOG = """
exit codes:
  0  every letter that matched was handled (or counted, with --dry-run); none matched counts too
  1  some letters failed or were skipped, or the run stopped before its end
  2  the command was refused and nothing was changed

examples:
  manage.py retry_failed_jobs --task 'mail.*' --error-type ConnectionRefusedError --dry-run
  manage.py retry_failed_jobs --task 'mail.*' --since 2026-01-31 --canary 5 --rate 20
  manage.py retry_failed_jobs --reason unknown_task --discard "the task was removed on purpose"
"""


class Command(BaseCommand):
    """Redrive dead letters that match a filter."""

    help = "Redrive the open dead letters that match all conditions, oldest first; or discard them."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the line breaks of the exit codes."""
        parser = super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        which = parser.add_argument_group("which letters")
        for name, text in CONDITIONS.items():
            which.add_argument(f"--{name}", default="", help=text)
        which.add_argument("--id", action="append", default=[], dest="ids", help="id of a letter; may be repeated")
        which.add_argument("--all", action="store_true", help="every open letter; needed if no condition is given")
        what = parser.add_argument_group("what to do")
        what.add_argument("--dry-run", action="store_true", help="list what matches and change nothing")
        what.add_argument("--limit", type=int, help="at most so many letters")
        what.add_argument("--rate", type=float, help="at most so many letters a second")
        what.add_argument("--canary", type=int, help="redrive so many first, go on only if none of them fails again")
        what.add_argument("--canary-wait", type=float, help="seconds to wait for canaries without a result")
        what.add_argument("--discard", metavar="REASON", help="close the letters for good instead, with this reason")
        what.add_argument("--by", default="", metavar="USERNAME", help="user for the audit log")
        what.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    def handle(self, *, ids: list[str], all: bool, by: str, **options: Any) -> None:
        """Do it and print what was done."""
        try:
            conditions = {name.replace("-", "_"): options[name.replace("-", "_")] for name in CONDITIONS}
            chosen = Filter.from_mapping({**conditions, "ids": ids, "state": State.OPEN.value})
            if not chosen.narrow and not all:
                raise CommandError(
                    "No condition is given. Name letters by --id or a condition such as --task, or say --all.",
                    returncode=REFUSED,
                )
            verb = "redrive" if options["discard"] is None else "discard"
            right = f"orchestrator_deadletters.{verb}_deadletter"
            user = acting(by, right, f"{verb} dead letters", refused=REFUSED)
            report, items = self._act(chosen, by=user, **options)
        except ConfigurationError as error:
            raise CommandError(f"{error} Nothing was changed.", returncode=REFUSED) from error
        except DatabaseFailure as error:
            raise CommandError(
                f"The database cannot be asked: {str(error).strip()}\nIs it the right one (DATABASE_URL, "
                "ORCHESTRATOR_DATA_DIR), does it run, and was 'manage.py migrate' run on it? Nothing was changed.",
                returncode=REFUSED,
            ) from error
        self._print(report, items, chosen, **options)
        if report.failed or report.skipped or report.stopped:
            raise SystemExit(INCOMPLETE)

    def _act(
        self, chosen: Filter, *, by: Any, dry_run: bool, limit: int | None, discard: str | None, **options: Any
    ) -> tuple[Report, list[dict[str, str]]]:
        pacing = {name: options[name] for name in ("rate", "canary", "canary_wait") if options[name] is not None}
        if discard is not None:
            if pacing:
                raise CommandError("--discard sends nothing, so it takes no pacing options.", returncode=REFUSED)
            report = discard_where(chosen, reason=discard, by=by, limit=limit, dry_run=dry_run)
        else:
            report = redrive_where(chosen, by=by, limit=limit, dry_run=dry_run, on_step=self._step, **pacing)
        return report, _items(chosen, limit) if dry_run else []

    def _step(self, report: Report) -> None:
        """Show how far it is where a person looks on."""
        if self.stderr.isatty():
            self.stderr.write(f"{report.count - _left(report)} of {report.count}", ending="\r")

    def _print(
        self, report: Report, items: list[dict[str, str]], chosen: Filter, *, dry_run: bool, **options: Any
    ) -> None:
        if options["json"]:
            self.stdout.write(json.dumps(_preview(items) if dry_run else _outcome(report)))
            return
        verb = "discard" if options["discard"] is not None else "redrive"
        if dry_run:
            for item in items:
                self.stdout.write(f"{item['id']}  {item['task']}  {item['reason']}  {item['task_id']}")
            self.stdout.write(f"{report.count} {chosen.describe()}: would {verb}.")
            return
        for letter_id, new_id in report.done:
            self.stdout.write(f"{letter_id}  {'redriven as ' + new_id if new_id else 'discarded'}")
        for letter_id, why in report.skipped:
            self.stderr.write(f"{letter_id}  skipped: {why}")
        for letter_id, why in report.failed:
            self.stderr.write(f"{letter_id}  failed: {why}")
        if report.stopped:
            self.stderr.write(report.stopped)
        self.stdout.write(
            f"{report.count} {chosen.describe()}: {len(report.done)} done, {len(report.skipped)} skipped, "
            f"{len(report.failed)} failed, {_left(report)} left."
        )


def _items(chosen: Filter, limit: int | None) -> list[dict[str, str]]:
    columns = ("pk", "task_id", "task", "reason")
    rows = chosen.queryset().order_by("died_at", "pk").values_list(*columns)
    return [
        {"id": str(pk), "task_id": task_id, "task": task, "reason": reason}
        for pk, task_id, task, reason in rows[:limit]
    ]


def _preview(items: list[dict[str, str]]) -> dict[str, Any]:
    return {"count": len(items), "items": items}


def _outcome(report: Report) -> dict[str, Any]:
    return {
        "count": report.count,
        "done": [{"id": letter_id, "new_task_id": new_id} for letter_id, new_id in report.done],
        "skipped": [{"id": letter_id, "why": why} for letter_id, why in report.skipped],
        "failed": [{"id": letter_id, "error": error} for letter_id, error in report.failed],
        "left": _left(report),
        "stopped": report.stopped,
    }


def _left(report: Report) -> int:
    return report.count - len(report.done) - len(report.skipped) - len(report.failed)
