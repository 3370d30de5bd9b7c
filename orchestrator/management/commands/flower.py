"""``manage.py flower``: Flower with the inbox, behind Django's login."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orchestrator.contracts.errors import OrchestratorError
from orchestrator.management.broker import app_with_broker, broker_problem


class Command(BaseCommand):
    help = "Run Flower with the dead-letter pages, behind Django's login."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--address", default="127.0.0.1", help="address to listen at (127.0.0.1)")
        parser.add_argument("--port", type=int, default=5555, help="port to listen at; 0 takes a free one (5555)")
        parser.add_argument("--url-prefix", default="", help="path under which a proxy serves Flower, such as flower")
        parser.add_argument("--max-tasks", type=int, default=10_000, help="tasks that Flower remembers (10000)")
        parser.add_argument(
            "--web-url", default="http://127.0.0.1:8000", help="where the Django site is, for links (%(default)s)"
        )

    def handle(self, **given: Any) -> None:
        # Flower takes a second to import; only this command needs it.
        try:
            from orchestrator.flower.server import Options, build, listen, serve
        except ImportError as error:
            raise CommandError(
                f"The installed Flower cannot be used: {error}. Install the release that this one is made for: "
                "flower>=2.2,<2.3."
            ) from error

        wanted = Options(**{name: given[name] for name in ("address", "port", "url_prefix", "max_tasks", "web_url")})
        if not 0 <= wanted.port <= 65535:
            raise CommandError(f"--port {wanted.port}: give a port from 0 to 65535.")
        if wanted.max_tasks < 1:
            raise CommandError(f"--max-tasks {wanted.max_tasks}: give a number of 1 or more.")
        app = app_with_broker()
        if problem := broker_problem(app):
            raise CommandError(
                f"{problem}. Flower watches workers through it: start it, or correct ORCHESTRATOR_BROKER_URL; "
                "'manage.py up' starts one."
            )
        try:
            flower = build(app, wanted)
            port = listen(flower, wanted)
        except OrchestratorError as error:
            raise CommandError(str(error)) from error
        host = f"[{wanted.address}]" if ":" in wanted.address else wanted.address or "127.0.0.1"
        path = f"/{wanted.url_prefix.strip('/')}/" if wanted.url_prefix.strip("/") else "/"
        self.say(f"Flower listens at http://{host}:{port}{path}")
        serve(flower, self.say)

    def say(self, line: str) -> None:
        """Print a line at once, also into a pipe."""
        self.stdout.write(line)
        self.stdout.flush()
