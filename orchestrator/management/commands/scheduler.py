"""``manage.py scheduler``: send what is due."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from orchestrator.celery import get_app
from orchestrator.management.broker import BrokerCommand
from orchestrator.management.options import LEVELS


class Command(BrokerCommand):
    """Celery's beat on the schedules in the database."""

    help = "Run the scheduler: sends the tasks whose time has come, as the schedules in the database say."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--max-interval",
            type=float,
            default=5.0,
            metavar="SECONDS",
            help="Look at the database at least this often, so that an edit acts soon. Default: %(default)s.",
        )
        parser.add_argument(
            "--loglevel", "-l", type=str.upper, choices=LEVELS, default="INFO", help="Default: %(default)s."
        )
        parser.add_argument("--quiet", "-q", action="store_true", help="Print no banner.")

    def handle(self, *args: Any, **options: Any) -> None:
        app = get_app()
        beat = app.Beat(
            max_interval=options["max_interval"],
            loglevel=options["loglevel"],
            quiet=options["quiet"],
            no_color=True if options["no_color"] else None,
        )
        beat.run()
