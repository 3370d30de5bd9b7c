"""``manage.py up``: the whole platform on one machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from django.conf import settings
from django.core.checks import ERROR
from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.celery import get_app
from orchestrator.contracts.errors import OrchestratorError
from orchestrator.launch.banner import Banner
from orchestrator.launch.broker import EmbeddedBroker
from orchestrator.launch.console import Console
from orchestrator.launch.lock import FileLock
from orchestrator.launch.paths import embedded_broker_url, unusable
from orchestrator.launch.ports import LOOPBACK, free_port, is_free
from orchestrator.launch.processes import Supervisor
from orchestrator.launch.stack import NAMES, Plan, broker_program, manage_command, programs, project_directory, select
from orchestrator.launch.watchdog import Watchdog
from orchestrator.management.broker import broker_problem
from orchestrator.management.first_start import describe_database, first_admin, prepare_database
from orchestrator.management.options import LEVELS, port, positive

WEB_PORT = 8000
FLOWER_PORT = 5555
#: Seconds that an earlier `up` gets to end when it is just stopping.
_HANDOVER = 1.0


class Command(BaseCommand):
    """Starts everything, keeps it running, stops it in order."""

    help = (
        "Run the whole platform on this machine: a broker if none is configured, migrations, web, worker, scheduler, "
        "relay and Flower. Ctrl-C stops everything in order; a second one puts running tasks back and hurries."
    )
    # Run in here, once the broker is known.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--only", default="", metavar="NAMES", help=f"Some of these, with commas: {', '.join(NAMES)}."
        )
        parser.add_argument(
            "--workers",
            type=positive,
            default=0,
            metavar="N",
            help="Tasks that run at once. Default: the number of CPUs.",
        )
        parser.add_argument(
            "--host", default=LOOPBACK, help="Address to listen on. Default: %(default)s, this machine only."
        )
        parser.add_argument("--port", type=port, help=f"Port of the web pages. Default: {WEB_PORT}, or a free one.")
        parser.add_argument("--flower-port", type=port, help=f"Port of Flower. Default: {FLOWER_PORT}, or a free one.")
        parser.add_argument(
            "--loglevel",
            type=str.upper,
            choices=LEVELS,
            default="INFO",
            help="Of worker and scheduler. Default: %(default)s.",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        try:
            with _Interruption() as interruption, ExitStack() as stack:
                self._run(stack, began, options, interruption)
        except OrchestratorError as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.stderr.write("Stopped before everything was up; nothing is left running.")

    def _run(self, stack: ExitStack, began: float, options: dict[str, Any], interruption: _Interruption) -> None:
        selected = select(options["only"])
        console = Console([*selected, "broker"], colour=False if options["no_color"] else None)
        data_dir = _data_dir()
        lock = _lock(data_dir)
        stack.callback(lock.release)
        if "web" in selected and importlib.util.find_spec("gunicorn") is None:
            raise CommandError("gunicorn is not installed. Use: pip install 'django-orchestrator[server]'")
        plan, notes = _plan(selected, options)
        watchdog = Watchdog()
        stack.callback(watchdog.close)
        broker = self._broker(data_dir, watchdog, console)
        if broker is not None:
            stack.callback(broker.stop)
        self.check(fail_level=ERROR)
        if static := getattr(settings, "STATIC_ROOT", None):
            # WhiteNoise warns in every process if it is not there, though it needs nothing from it here.
            Path(static).mkdir(parents=True, exist_ok=True)
        applied = prepare_database()
        if applied:
            console.say(f"{applied} migrations applied to {describe_database()}")
        urls: dict[str, str] = {name: plan.url(name) for name in ("web", "flower") if name in selected}
        name, password = first_admin() if urls else ("", "")
        children = programs(selected, plan, watchdog, _environment(broker, data_dir, urls))
        if broker is not None:
            children.append(broker_program(broker))
        supervisor = Supervisor(children, watchdog, console)
        if broker is not None and broker.process is not None:
            supervisor.adopt("broker", broker.process)
        lock.note(json.dumps({"pid": os.getpid(), "urls": urls}))
        banner = Banner(console, urls, began)
        banner.facts = {
            "Broker": f"embedded, data in {data_dir}" if broker else get_app().connection_for_write().as_uri(),
            "Database": describe_database(),
        }
        if password:
            banner.facts["Log in"] = f"{name} / {password}   (shown only now; 'manage.py changepassword' makes another)"
        banner.notes = notes
        # Until the very end: an impatient user must not interrupt the clean-up.
        _on_signals(supervisor.request_stop)
        interruption.raise_if_asked()
        supervisor.run(banner.tick)
        console.say("stopped")

    def _broker(self, data_dir: Path, watchdog: Watchdog, console: Console) -> EmbeddedBroker | None:
        """Start the embedded broker if no other is configured; else make sure that that one answers."""
        app = get_app()
        configured = str(app.conf.broker_url or "")
        if configured and configured != embedded_broker_url(data_dir):
            problem = broker_problem(app)
            if problem:
                raise CommandError(
                    f"{problem}\nIt is configured by ORCHESTRATOR_BROKER_URL or REDIS_URL: correct that, start it, "
                    "or unset both to use the embedded broker."
                )
            return None
        broker = EmbeddedBroker(data_dir, watchdog=watchdog, warn=console.say)
        try:
            url = broker.start()
        except OSError as error:
            raise unusable(data_dir, error) from error
        # For the checks that follow in this process; the children get it by their environment.
        settings.CELERY_BROKER_URL = url
        app.conf.update(broker_url=url)
        return broker


def _data_dir() -> Path:
    """Return the platform's directory, made if need be.

    Raises:
        ConfigurationError: it cannot be written.
    """
    given = getattr(settings, "DATA_DIR", "") or os.environ.get("ORCHESTRATOR_DATA_DIR") or ".orchestrator"
    data_dir = Path(given).absolute()
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise unusable(data_dir, error) from error
    return data_dir


def _lock(data_dir: Path) -> FileLock:
    """Take the lock of this data directory.

    Raises:
        CommandError: another ``up`` has it.
        ConfigurationError: it cannot be written.
    """
    lock = FileLock(data_dir / "up.lock")
    try:
        if lock.acquire(timeout=_HANDOVER):
            lock.note(json.dumps({"pid": os.getpid(), "urls": {}}))
            return lock
    except OSError as error:
        raise unusable(data_dir, error) from error
    try:
        holder = json.loads(lock.read())
    except ValueError:
        holder = {"pid": "unknown", "urls": {}}
    places = "".join(f"\n  {name:<8}{url}" for name, url in holder["urls"].items())
    raise CommandError(
        f"'manage.py up' already runs on {data_dir} (process {holder['pid']}).{places}\n"
        "Stop it with Ctrl-C in its terminal, or set ORCHESTRATOR_DATA_DIR to a directory for a second platform."
    )


def _plan(selected: tuple[str, ...], options: dict[str, Any]) -> tuple[Plan, list[str]]:
    """Choose the ports; return the plan and what the user should know about it.

    Raises:
        CommandError: a port that was asked for is taken, or the host is not one of this machine.
    """
    host, notes, ports = options["host"], [], {}
    wanted = {"web": ("port", "--port", WEB_PORT), "flower": ("flower_port", "--flower-port", FLOWER_PORT)}
    try:
        for name, (key, flag, usual) in wanted.items():
            asked = options[key]
            if name not in selected:
                ports[name] = 0
            elif asked and (asked in ports.values() or not is_free(asked, host)):
                raise CommandError(
                    f"Port {asked} on {host} is taken ({flag} {asked}). Give another, or leave {flag} out: "
                    "then a free one is chosen."
                )
            else:
                ports[name] = free_port(asked or usual, host, avoid=set(ports.values()))
                if not asked and ports[name] != usual:
                    notes.append(f"port {usual} is taken by another program, so {name} uses {ports[name]}.")
    except OSError as error:
        raise CommandError(f"Nothing can listen on {host!r} (--host): {error.strerror or error}.") from error
    if not _is_loopback(host) and "ORCHESTRATOR_ALLOWED_HOSTS" not in os.environ:
        notes.append("for access from other machines, set ORCHESTRATOR_ALLOWED_HOSTS to the names they use.")
    wsgi = ":".join(str(settings.WSGI_APPLICATION or "orchestrator.wsgi.application").rsplit(".", 1))
    plan = Plan(
        manage=manage_command(),
        wsgi=wsgi,
        directory=project_directory(),
        host=host,
        port=ports["web"],
        flower_port=ports["flower"],
        workers=options["workers"],
        loglevel=options["loglevel"],
    )
    return plan, notes


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _environment(broker: EmbeddedBroker | None, data_dir: Path, urls: dict[str, str]) -> dict[str, str]:
    """Return the children's environment; the only way in which they learn the broker's password."""
    env = {**os.environ, "ORCHESTRATOR_DATA_DIR": str(data_dir), "PYTHONUNBUFFERED": "1"}
    # The checks ran in this process.
    env["CELERY_SKIP_CHECKS"] = "1"
    if broker is not None:
        env["ORCHESTRATOR_BROKER_URL"] = broker.url
    if "flower" in urls:
        # Not if it is set: behind a proxy, only the user knows.
        env.setdefault("ORCHESTRATOR_FLOWER_URL", urls["flower"])
    return env


class _Interruption:
    """Has SIGTERM and SIGHUP do what Ctrl-C does, so that everything that was begun is undone.

    Python swallows an exception that a signal handler raises inside a destructor or a weak reference's callback, so
    the wish is noted as well.
    """

    def __init__(self) -> None:
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = _on_signals(self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_if_asked(self) -> None:
        """Raise what a handler raised and nobody saw.

        Raises:
            KeyboardInterrupt: an end was asked for.
        """
        if self._asked:
            raise KeyboardInterrupt

    def _interrupt(self, *_: object) -> None:
        self._asked = True
        raise KeyboardInterrupt


def _on_signals(handler: Callable[..., None]) -> dict[signal.Signals, Any]:
    """Install a handler for everything that asks for an end; return what was there before."""
    return {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
