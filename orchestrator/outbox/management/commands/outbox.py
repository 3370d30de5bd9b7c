"""``manage.py outbox reconcile``: send again what the outbox sent and the broker lost."""

from __future__ import annotations

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseFailure

from orchestrator.audit.commands import acting
from orchestrator.contracts.errors import BrokerUnavailable, ConfigurationError, StoreUnavailable
from orchestrator.outbox.services import Found, Report, reconcile, sweep

#: Exit codes.
INCOMPLETE, REFUSED = 1, 2
RIGHT = "orchestrator_outbox.reconcile_outboxmessage"

EPILOG = """
exit codes:
  0  nothing is lost, or all that is was put back; with --dry-run always
  1  there are messages of which nobody knows how they ended; they were left alone
  2  the command was refused, or a store could not be asked

Messages that were sent in the last seconds are not looked at. Repeating it does no harm.
"""


class Command(BaseCommand):
    """Look after messages that were sent."""

    help = (
        "reconcile: after a broker lost what it had confirmed (a failover, a restored backup), find the messages "
        "of the outbox that were sent, have not ended and are nowhere, and send them again under the same ids."
    )

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> Any:
        """Keep the line breaks of the exit codes."""
        parser = super().create_parser(prog_name, subcommand, epilog=EPILOG, **kwargs)
        parser.formatter_class = RawDescriptionHelpFormatter
        return parser

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        parser.add_argument("verb", choices=["reconcile"], help="what to do")
        parser.add_argument("--dry-run", action="store_true", help="tell what would be sent again and change nothing")
        parser.add_argument(
            "--old",
            action="store_true",
            help="send again what was due more than a day ago, too; without it that is unknown: whether such a message "
            "was begun is remembered no longer",
        )
        parser.add_argument("--by", default="", metavar="USERNAME", help="user for the audit log")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")

    def handle(self, *, dry_run: bool, old: bool, by: str, **options: Any) -> None:
        """Do it and print what was found."""
        try:
            report = reconcile(dry_run=dry_run, old=old, by=acting(by, RIGHT, "reconcile the outbox", refused=REFUSED))
        except (ConfigurationError, StoreUnavailable) as error:
            raise CommandError(str(error), returncode=REFUSED) from error
        except DatabaseFailure as error:
            raise CommandError(
                f"The database cannot be asked: {str(error).strip()}\nIs it the right one (DATABASE_URL), does it run, "
                "and was 'manage.py migrate' run on it?",
                returncode=REFUSED,
            ) from error
        if report.sent_again:
            self._send()
        self._print(report, dry_run, as_json=options["json"])
        if report.counts[Found.UNKNOWN] and not dry_run:
            raise SystemExit(INCOMPLETE)

    def _send(self) -> None:
        """Send at once what was put back, as far as it can be done; relays do the rest."""
        try:
            while sweep():
                pass
        except BrokerUnavailable as error:
            self.stderr.write(f"What was put back is sent by a relay once the broker takes it: {error}")

    def _print(self, report: Report, dry_run: bool, *, as_json: bool) -> None:
        counts = {found.value: report.counts[found] for found in Found}
        if as_json:
            told = {**counts, "sent_again": report.sent_again, "items": report.items}
            self.stdout.write(json.dumps(told))
            return
        for item in report.items:
            self.stdout.write(f"{item['id']}  {item['found']}  {item['task']}  {item['task_id']}")
        what = "would be sent again" if dry_run else "put back to be sent"
        self.stdout.write(
            f"{counts['there']} in the broker, {counts['ended']} ended, {counts['unknown']} unknown, {counts['lost']} "
            f"lost: {counts['lost'] if dry_run else report.sent_again} {what}."
        )
