"""``manage.py worker``: run tasks."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from celery.exceptions import SecurityWarning
from celery.utils.nodenames import default_nodename, host_format
from django.core.management.base import CommandError, CommandParser
from django.db import connections

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.management.broker import BrokerCommand
from orchestrator.management.options import LEVELS, names, positive, seconds
from orchestrator.transport import registry

POOLS = ("swarm", "prefork", "solo", "threads")


class Command(BrokerCommand):
    """Celery's worker with the project's app and settings."""

    help = "Run a worker: takes tasks from the broker and executes them. SIGTERM lets running tasks finish first."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--pool",
            "-P",
            choices=POOLS,
            help="How tasks run side by side: in processes that each fetch for themselves (swarm), in processes that "
            "one other process feeds (prefork), one at a time in this process (solo), or in threads. "
            "Time limits need swarm or prefork. Default: swarm on our Redis transport, else prefork.",
        )
        parser.add_argument(
            "--concurrency", "-c", type=positive, help="How many tasks run at once. Default: the number of CPUs."
        )
        parser.add_argument(
            "--queues", "-Q", type=names, default=[], help="Queues to take tasks from, separated by commas."
        )
        parser.add_argument(
            "--strict",
            action="store_true",
            help="Take nothing from a queue of --queues while one that is named before it has anything. "
            "Otherwise they take turns, and priorities count first.",
        )
        parser.add_argument("--hostname", "-n", help="Name of this worker; %%h is the machine. Default: celery@%%h.")
        parser.add_argument(
            "--loglevel", "-l", type=str.upper, choices=LEVELS, default="INFO", help="Default: %(default)s."
        )
        parser.add_argument("--quiet", "-q", action="store_true", help="Print no banner.")
        parser.add_argument(
            "--grace",
            type=seconds,
            help="Seconds that running tasks get to finish after SIGTERM; what still runs then goes back to its queue. "
            "Default: ORCHESTRATOR['STOP_GRACE_SECONDS'], or until they end. (swarm)",
        )
        parser.add_argument(
            "--max-tasks-per-child", type=positive, help="Tasks after which a process is replaced. (swarm, prefork)"
        )
        parser.add_argument(
            "--max-memory-per-child",
            type=positive,
            metavar="KIB",
            help="KiB of memory after which a process is replaced, once its task has ended. (swarm, prefork)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        app = get_app()
        # It advises an option that only Celery's own command has. What makes root dangerous, pickled
        # messages, is refused in any case.
        warnings.filterwarnings("ignore", category=SecurityWarning)
        if options["strict"]:
            app.conf.broker_transport_options = {
                **app.conf.broker_transport_options,
                "queue_order_strategy": "priority",
            }
        pool = options["pool"] or ("swarm" if _can_swarm(app) else "prefork")
        common = {
            "hostname": host_format(default_nodename(options["hostname"])),
            "queues": options["queues"],
            "loglevel": options["loglevel"],
        }
        recycling = {
            name: options[name] or getattr(app.conf, f"worker_{name}")
            for name in ("max_tasks_per_child", "max_memory_per_child")
        }
        if pool == "swarm":
            sys.exit(self._swarm(app, {**common, **recycling}, options))
        worker = app.Worker(
            **common,
            **recycling,
            pool_cls=pool,
            concurrency=options["concurrency"],
            quiet=options["quiet"],
            no_color=True if options["no_color"] else None,
        )
        worker.start()
        sys.exit(worker.exitcode)

    def _swarm(self, app: Any, common: dict[str, Any], options: dict[str, Any]) -> int:
        """Run the swarm; return its exit code.

        Raises:
            CommandError: it needs what is not here.
        """
        if not _can_swarm(app):
            raise CommandError(
                "A swarm needs the platform's transport (ORCHESTRATOR['TRANSPORT'] = 'orchestrator' and a broker URL "
                "of redis://, rediss:// or sentinel://) and a system that can fork. Use --pool prefork."
            )
        concurrency = options["concurrency"] or app.conf.worker_concurrency or os.cpu_count() or 1
        grace = options["grace"] if options["grace"] is not None else conf.settings().stop_grace_seconds
        connections.close_all()
        exit_code: int = app.run_swarm(
            {
                **common,
                "concurrency": concurrency,
                "grace": grace,
                "colour": False if options["no_color"] else None,
            }
        )
        return exit_code


def _can_swarm(app: Any) -> bool:
    ours = app.connection_for_read().transport_cls in registry.OURS
    return ours and conf.settings().transport == "orchestrator" and hasattr(os, "fork")
