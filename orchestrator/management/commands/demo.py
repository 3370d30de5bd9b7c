"""``manage.py demo``: show the main job end to end on a private stack."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from orchestrator.demo.environment import clean_environment
from orchestrator.launch.watchdog import Watchdog

#: module -> the extra that brings it.
NEEDED = {"environ": "server", "aiosmtpd": "demo", "reportlab": "pdf", "imageio_ffmpeg": "video"}


class Command(BaseCommand):
    """Starts the demo in a process of its own, which never sees the project's broker or database."""

    help = (
        "Run the three workloads in small, a failure and its redrive, and a payment that is asked for twice, "
        "on a private broker and database, "
        "watch them, and say what was seen. Exit code 0 only if all of it was."
    )
    # The real project may be as broken as it likes.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="Print one JSON object instead of a table.")
        parser.add_argument("--keep", action="store_true", help="Keep the files and logs, and say where they are.")
        parser.add_argument(
            "--timeout", type=_seconds, default=90.0, help="Seconds until what was not seen is missing. Default: 90."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        _check_extras()
        root = _project_root()
        command = [sys.executable, "-m", "orchestrator.demo", "--timeout", str(options["timeout"])]
        command += [f"--{name}" for name in ("json", "keep") if options[name]]
        sys.exit(_run(command, root))


def _check_extras() -> None:
    lacking = {extra: module for module, extra in NEEDED.items() if importlib.util.find_spec(module) is None}
    if lacking:
        raise CommandError(
            f"The demo needs {', '.join(sorted(lacking.values()))}: "
            f"pip install 'django-orchestrator[{','.join(sorted(lacking))}]'."
        )


def _project_root() -> Path:
    """Return the directory that holds the reference project's tasks, which are no part of the package."""
    with contextlib.suppress(ModuleNotFoundError):
        found = importlib.util.find_spec("tasks.email")
        if found is not None and found.origin is not None:
            return Path(found.origin).parent.parent
    raise CommandError("The demo drives the tasks of the reference project: run it in a clone of the repository.")


def _run(command: list[str], root: Path) -> int:
    """Run a command that dies with this process; pass the first request to stop on to it, once."""
    environment = clean_environment(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))
    watchdog = Watchdog()
    child = watchdog.spawn(command, env=environment, death_signal=signal.SIGTERM)
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if not stopping and child.poll() is None:
            stopping = True
            child.send_signal(signal.SIGTERM)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        watchdog.release(child.pid)
        watchdog.close()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds
