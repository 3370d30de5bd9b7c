"""A private pgbouncer in front of the run's PostgreSQL, which gives every transaction another of its connections."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from orchestrator.launch.ports import LOOPBACK, free_port
from tests.support import database
from tests.support.process import Process
from tests.support.wait import eventually

#: Connections that it keeps to the server.
SIZE = 4


def program() -> str | None:
    """Return the program, or None where it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer(Process):
    """One that can be killed and started again. It refuses to run as root."""

    def __init__(self, directory: Path, url: str) -> None:
        found = program()
        assert found is not None, "pgbouncer is not installed"
        user = database.unprivileged() if os.geteuid() == 0 else None
        place = urlsplit(url)
        self.port = free_port()
        self.url = f"postgres://{LOOPBACK}:{self.port}{place.path}"
        options = {
            "listen_addr": LOOPBACK,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": SIZE,
            "min_pool_size": SIZE,
            # Else an idle server is always asked by its newest connection, and nothing that is lost would be missed.
            "server_round_robin": 1,
        }
        account = {"host": place.hostname, "port": place.port or 5432, "user": place.username}
        if place.password:
            account["password"] = unquote(place.password)
        home = directory / "pgbouncer"
        home.mkdir(parents=True)
        config = home / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = {' '.join(f'{key}={value}' for key, value in account.items())}\n[pgbouncer]\n"
            + "".join(f"{key} = {value}\n" for key, value in options.items())
        )
        if user is not None:
            database.hand_over(home, user)
        super().__init__(
            [str(part) for part in database.as_user(user, [found, config])], name="pgbouncer", directory=directory
        )

    def start(self, timeout: float = 60.0) -> PgBouncer:
        """Start it and wait until it answers."""
        super().start(timeout)
        eventually(lambda: self._check_alive() and self._answers(), timeout, self.tail)
        return self

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running(directory: Path, url: str) -> Iterator[PgBouncer]:
    """Run one before a database; killed at the end, since it waits for its clients."""
    bouncer = PgBouncer(directory, url)
    try:
        yield bouncer.start()
    finally:
        if bouncer.running:
            bouncer.kill_group()
            bouncer.wait()
