"""The platform's own processes, as the commands of production start them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from orchestrator.launch.ports import free_port
from tests.support import database, environment
from tests.support.process import MANAGE, Process
from tests.support.wait import eventually

#: For a worker whose results are looked for in the database at once; else a relay writes them.
ROWS_AT_ONCE = {"ORCHESTRATOR_TEST_RESULTS_WAITING": "0"}


def platform_env(env: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
    """Return the variables that make a subprocess join this test run, on the *test* database."""
    return {"DJANGO_SETTINGS_MODULE": "tests.settings", "DATABASE_URL": database.live_url(), **(env or {})}


class Worker(Process):
    """A real worker: ``manage.py worker``.

    Args:
        pool: swarm, prefork, solo or threads.
        concurrency: processes or threads.
        queues: names; the default queue if empty.
        options: more command line options.
    """

    def __init__(
        self,
        *,
        pool: str = "prefork",
        concurrency: int = 1,
        queues: Iterable[str] = (),
        name: str = "worker",
        options: Iterable[str] = (),
        env: Mapping[str, str | None] | None = None,
        directory: Path | None = None,
    ) -> None:
        command = ["python", MANAGE, "worker", "--pool", pool, "--concurrency", str(concurrency)]
        if queues := list(queues):
            command += ["-Q", ",".join(queues)]
        super().__init__(
            [*command, *options],
            name=name,
            directory=directory or environment.directory() / "logs",
            env=platform_env(env),
            ready=r"\S+@\S+ ready",
        )
        # The numbered name is unique in this run, and Celery wants node names to be.
        self.node = f"{self.name}@test"
        self.command += ["--hostname", self.node]
        self.pool = pool

    def pool_children(self) -> list[int]:
        """Pids of the processes that run tasks; empty on solo and threads."""
        if self.pool not in ("swarm", "prefork") or not self.running:
            return []
        if self.pool == "swarm":
            return children(self.pid)
        # Pool processes are forks of the worker and therefore have its command line.
        mine = _command_line(self.pid)
        return [pid for pid in self.children() if _command_line(pid) == mine]

    def wait_for_children(self, count: int, timeout: float = 30.0) -> list[int]:
        """Wait until the pool has ``count`` processes and return their pids."""
        return eventually(lambda: len(self.pool_children()) == count and self.pool_children(), timeout) or []


class Relay(Process):
    """A real ``manage.py relay``: drains letters into the database."""

    def __init__(self, *, env: Mapping[str, str | None] | None = None, options: Iterable[str] = ()) -> None:
        super().__init__(
            ["python", MANAGE, "relay", *options],
            name="relay",
            directory=environment.directory() / "logs",
            env=platform_env(env),
        )


class Scheduler(Process):
    """A real ``manage.py scheduler``."""

    def __init__(self, *, env: Mapping[str, str | None] | None = None, options: Iterable[str] = ()) -> None:
        super().__init__(
            ["python", MANAGE, "scheduler", *options],
            name="scheduler",
            directory=environment.directory() / "logs",
            env=platform_env(env),
            ready="beat: Starting",
        )


class _Server(Process):
    """A process that answers HTTP on a port of its own."""

    def __init__(self, command: list[str], port: int, **kwargs: Any) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        super().__init__(command, directory=environment.directory() / "logs", **kwargs)

    def start(self, timeout: float = 60.0) -> _Server:
        """Start it and wait until it accepts connections."""
        super().start(timeout)
        eventually(lambda: self._check_alive() and self._listens(), timeout, lambda: f"listens\n{self.tail()}")
        return self

    def _listens(self) -> bool:
        import socket

        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
        except OSError:
            return False
        return True


class Flower(_Server):
    """A real ``manage.py flower``."""

    def __init__(self, *, env: Mapping[str, str | None] | None = None, options: Iterable[str] = ()) -> None:
        port = free_port()
        command = ["python", MANAGE, "flower", "--port", str(port), "--address", "127.0.0.1", *options]
        super().__init__(command, port, name="flower", env=platform_env(env))


class Web(_Server):
    """A real gunicorn with the project's WSGI application."""

    def __init__(self, *, env: Mapping[str, str | None] | None = None, workers: int = 1) -> None:
        port = free_port()
        command = ["python", "-m", "gunicorn", "orchestrator.wsgi:application", "--bind", f"127.0.0.1:{port}"]
        command += ["--workers", str(workers), "--timeout", "60"]
        super().__init__(command, port, name="web", env=platform_env(env))


def children(pid: int) -> list[int]:
    """Return the pids right below a process."""
    try:
        found = psutil.Process(pid).children()
        return [child.pid for child in found if child.status() != psutil.STATUS_ZOMBIE]
    except psutil.NoSuchProcess:
        return []


def _command_line(pid: int) -> list[str]:
    try:
        return list(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return []
