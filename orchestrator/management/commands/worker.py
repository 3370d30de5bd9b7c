"""``manage.py worker``: run tasks."""

from __future__ import annotations

import sys
import warnings
from typing import Any

from celery.exceptions import SecurityWarning
from celery.utils.nodenames import default_nodename, host_format
from django.core.management.base import CommandParser

from orchestrator.celery import get_app
from orchestrator.management.broker import BrokerCommand
from orchestrator.management.options import LEVELS, names, positive

POOLS = ("prefork", "solo", "threads")


class Command(BrokerCommand):
    """Celery's worker with the project's app and settings."""

    help = "Run a worker: takes tasks from the broker and executes them. SIGTERM lets running tasks finish first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--pool",
            "-P",
            choices=POOLS,
            default="prefork",
            help="How tasks run side by side: in processes, one at a time in this process, or in threads. "
            "Hard time limits need prefork. Default: %(default)s.",
        )
        parser.add_argument(
            "--concurrency", "-c", type=positive, help="How many tasks run at once. Default: the number of CPUs."
        )
        parser.add_argument(
            "--queues", "-Q", type=names, default=[], help="Queues to take tasks from, separated by commas."
        )
        parser.add_argument("--hostname", "-n", help="Name of this worker; %%h is the machine. Default: celery@%%h.")
        parser.add_argument(
            "--loglevel", "-l", type=str.upper, choices=LEVELS, default="INFO", help="Default: %(default)s."
        )
        parser.add_argument("--quiet", "-q", action="store_true", help="Print no banner.")

    def handle(self, *args: Any, **options: Any) -> None:
        app = get_app()
        # It advises an option that only Celery's own command has. What makes root dangerous, pickled
        # messages, is refused in any case.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        worker = app.Worker(
            hostname=host_format(default_nodename(options["hostname"])),
            pool_cls=options["pool"],
            concurrency=options["concurrency"],
            queues=options["queues"],
            loglevel=options["loglevel"],
            quiet=options["quiet"],
            no_color=True if options["no_color"] else None,
        )
        worker.start()
        sys.exit(worker.exitcode)
