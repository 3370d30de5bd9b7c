"""The private stack of a demo: broker, mail server and processes in a directory of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator.demo.environment import clean_environment
from orchestrator.demo.mailbox import LOOPBACK, Mailbox
from orchestrator.demo.till import Till
from orchestrator.launch.broker import EmbeddedBroker
from orchestrator.launch.watchdog import Watchdog

#: Seconds that a process gets to end in order.
GRACE = 8.0


class Stack:
    """Everything that a demo needs and that must be gone afterwards."""

    def __init__(self, directory: Path, *, greylisted: int = 0) -> None:
        self.directory = directory
        self.media = directory / "media"
        self.mailbox = Mailbox(greylisted)
        self.till = Till()
        self._logs = directory / "logs"
        self._watchdog = Watchdog()
        self._broker = EmbeddedBroker(directory, watchdog=self._watchdog)
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def open(self) -> None:
        """Start broker and mail server and point this process at them; before Django reads its settings.

        Raises:
            ConfigurationError, BrokerUnavailable: there is no broker to start; the message says what to do.
        """
        temporary = self.directory / "tmp"
        for made in (self._logs, temporary):
            made.mkdir(parents=True)
        self.mailbox.start()
        self.till.start()
        environment = clean_environment(os.environ)
        environment.update(
            DJANGO_SETTINGS_MODULE="orchestrator.settings",
            # What a killed worker leaves there goes with the rest.
            TMPDIR=str(temporary),
            ORCHESTRATOR_DATA_DIR=str(self.directory),
            ORCHESTRATOR_BROKER_URL=self._broker.start(),
            ORCHESTRATOR_EMAIL_HOST=LOOPBACK,
            ORCHESTRATOR_EMAIL_PORT=str(self.mailbox.port),
            ORCHESTRATOR_PAYMENT_URL=self.till.url,
            DATABASE_URL=f"sqlite:///{self.directory / 'db.sqlite3'}",
        )
        os.environ.clear()
        os.environ.update(environment)

    def run(self, command: str, *options: str) -> None:
        """Start a management command as a child that writes into a log of its own."""
        with (self._logs / f"{command}.log").open("wb") as log:
            self._children[command] = self._watchdog.spawn(
                [sys.executable, "-m", "django", command, *options], stdout=log, stderr=subprocess.STDOUT
            )

    def dead(self) -> str:
        """Return which process ended although it should run, '' if none did."""
        ended = [
            f"{name} ended with {child.returncode}"
            for name, child in self._children.items()
            if child.poll() is not None
        ]
        return ", ".join(ended)

    def logs(self, lines: int = 15) -> str:
        """Return the end of each log, with headings."""
        ends = []
        for path in sorted(self._logs.glob("*.log")):
            end = path.read_text(errors="replace").splitlines()[-lines:]
            ends.append("\n".join([f"--- end of {path.stem}'s log", *end]))
        return "\n".join(ends)

    def close(self, grace: float = GRACE) -> None:
        """End all processes and the broker: in order within ``grace`` seconds, else by force."""
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace
        for child in self._children.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            # Also what the child itself started, such as a worker's pool.
            self._watchdog.release(child.pid)
        self._children.clear()
        self._broker.stop()
        self.mailbox.stop()
        self.till.stop()
        self._watchdog.close()
