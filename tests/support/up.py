"""A real ``manage.py up`` in a world of its own: own data directory, own broker, own database."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from tests.support import environment
from tests.support.process import MANAGE, ROOT, Process

READY = "Orchestrator runs, after"


class Up(Process):
    """``manage.py up`` with the zoo's tasks.

    Args:
        data_dir: its data directory, which also marks everything that it starts.
        options: more command line options.
        env: additions to the environment; None removes a variable.
    """

    def __init__(
        self, data_dir: Path, options: Iterable[str] = (), *, env: Mapping[str, str | None] | None = None
    ) -> None:
        self.data_dir = data_dir
        own = {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            environment.MARK: str(data_dir.parent),
            "ORCHESTRATOR_DATA_DIR": str(data_dir),
            **dict.fromkeys(("DATABASE_URL", "ORCHESTRATOR_BROKER_URL", "ORCHESTRATOR_STATE_URL", "REDIS_URL")),
            **(env or {}),
        }
        super().__init__(
            ["python", MANAGE, "up", *options], name="up", directory=data_dir.parent / "logs", env=own, ready=READY
        )

    def url(self, name: str) -> str:
        """Return the URL that the banner gives for Web or Flower."""
        return self.wait_for_log(rf"^ +{name} +(http://\S+)$")[1]

    @property
    def password(self) -> str:
        """The first admin's password, '' if the banner gives none."""
        found = re.search(r"Log in +admin / (\S+)", self.log)
        return found[1] if found else ""

    @property
    def broker(self) -> dict[str, str | int]:
        """What the broker file says: url and pid."""
        said: dict[str, str | int] = json.loads((self.data_dir / "broker.json").read_text())
        return said

    def left(self) -> list[str]:
        """Return everything alive that was ever started for this data directory, as text."""
        return [f"{pid} {' '.join(words)}" for pid, words in self._marked()]

    def child(self, name: str) -> int:
        """Return the pid of a child, such as ``worker`` or ``gunicorn``; 0 if it does not run."""
        for process in psutil.Process(self.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):  # also a zombie
                if name in process.cmdline():
                    return process.pid
        return 0

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same data directory, as a user in a second terminal."""
        return subprocess.run(
            [sys.executable, MANAGE, *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _marked(self) -> Iterable[tuple[int, list[str]]]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get("ORCHESTRATOR_DATA_DIR") == str(self.data_dir):
                    yield process.pid, process.cmdline()
