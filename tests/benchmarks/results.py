"""``results_postgresql``, ``results_sqlite``: tasks per second whose results are kept, timed to the last row.

Ours is the worker of the ``throughput`` benchmark with one relay, the peer plain Celery
with django-celery-results as shipped; both have two processes and write into the same
table. A turn begins with a full queue and ends when the last row is in the database. The
third side is ours without results, on the same worker, timed to the last acknowledgement.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Self

from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.throughput import PROCESSES, ours_worker, plain_worker
from tests.support import database, environment, inflight
from tests.support.process import MANAGE, ROOT, Process
from tests.support.wait import eventually
from tests.support.worker import Relay, platform_env

#: Tasks of one turn: some seconds' worth, since the last rows lag a constant part of a second behind. The peer's do not
#: lag, so fewer will do.
TASKS, PEER_TASKS = 10_000, 400
WARM_UP = 100
PATIENCE = 120.0


class Table:
    """The table of results, seen from outside of Django."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def rows(self) -> int:
        """Return how many tasks succeeded."""
        found = self._connection.execute(
            "SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'"
        ).fetchone()
        return int(found[0])

    def clear(self) -> None:
        """Empty it."""
        self._connection.execute("DELETE FROM django_celery_results_taskresult")


class Side:
    """One worker under load, and a producer."""

    def __init__(self, worker: Process, module: str, queue: str, table: Table) -> None:
        self.queue = queue
        self._worker = worker
        self._module = module
        self._table = table
        self._client = environment.world().broker.client

    def __enter__(self) -> Self:
        self._worker.start()
        self._producer = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.producer", self._module, self.queue],
            cwd=ROOT,
            env=self._worker.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.rate(WARM_UP)
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.communicate()
        self._worker.stop()

    def rate(self, tasks: int) -> float:
        """Return tasks per second, each with a row at the end."""
        self._table.clear()
        seconds = self._turn("kept", tasks, lambda: self._table.rows() >= tasks)
        eventually(self._idle, PATIENCE)
        return tasks / seconds

    def rate_without(self, tasks: int) -> float:
        """Return tasks per second without results."""
        return tasks / self._turn("noop", tasks, self._idle)

    def _turn(self, task: str, tasks: int, done: Callable[[], bool]) -> float:
        self._worker.kill_group(signal.SIGSTOP)
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(f"{tasks} {task}\n")
        self._producer.stdin.flush()
        self._producer.stdout.readline()
        self._worker.kill_group(signal.SIGCONT)
        begun = time.monotonic()
        eventually(done, PATIENCE, lambda: f"{tasks} {task}: {self._table.rows()} rows\n{self._worker.tail()}")
        return time.monotonic() - begun

    def _idle(self) -> bool:
        return not self._client.llen(self.queue) and not inflight.count(self._client)


def on_postgresql(budget: Budget) -> Result:
    """Measure on a PostgreSQL server."""
    with _postgresql() as (url, table):
        return _run("results_postgresql", budget, url, table)


def on_sqlite(budget: Budget) -> Result:
    """Measure on a SQLite file."""
    path = environment.directory() / "results.sqlite3"
    with contextlib.closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
        url = f"sqlite:///{path}"
        _migrate(url)
        return _run("results_sqlite", budget, url, Table(connection))


def _run(name: str, budget: Budget, url: str, table: Table) -> Result:
    pairs, without = [], []
    env = {"DATABASE_URL": url}
    with ExitStack() as stack:
        mine_side = Side(ours_worker(env=env), "orchestrator.celery", "ours", table)
        peer_side = Side(plain_worker(env), "tests.benchmarks.plain", "plain", table)
        stack.enter_context(Relay(env=env))
        for side in (mine_side, peer_side):
            stack.enter_context(side)
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            if len(pairs) % 2:
                peer, mine = peer_side.rate(PEER_TASKS), mine_side.rate(TASKS)
            else:
                mine, peer = mine_side.rate(TASKS), peer_side.rate(PEER_TASKS)
            pairs.append((mine, peer))
            without.append(mine_side.rate_without(TASKS))
    return Result.of_pairs(
        name,
        pairs,
        "tasks/s",
        processes=PROCESSES,
        tasks=TASKS,
        ours_without_results=round(median(without), 2),
        share_of_ours_without=round(median(pair[0] / none for pair, none in zip(pairs, without, strict=True)), 3),
    )


@contextmanager
def _postgresql() -> Iterator[tuple[str, Table]]:
    import psycopg

    directory = Path(environment.directory()) / "results-postgresql"
    directory.mkdir(exist_ok=True)
    server_url, server = database.postgresql_server(directory)
    name = f"orchestrator_bench_{os.getpid()}"
    url = database.create(server_url, name)
    try:
        _migrate(url)
        with psycopg.connect(url.replace("postgres://", "postgresql://"), autocommit=True) as connection:
            yield url, Table(connection)
    finally:
        database.drop(server_url, name)
        if server is not None:
            server.stop()


def _migrate(url: str) -> None:
    env = {key: value for key, value in platform_env({"DATABASE_URL": url}).items() if value is not None}
    subprocess.run([sys.executable, str(MANAGE), "migrate", "-v", "0"], cwd=ROOT, env={**os.environ, **env}, check=True)
