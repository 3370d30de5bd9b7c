"""Tasks that publish inside transactions of their own."""

from __future__ import annotations

import os
import signal
from typing import Any

from django.db import connection, transaction

from orchestrator import Defer, Retries, task
from orchestrator.audit.services import record
from tests.support import far_side
from tests.support.zoo import follow


@task
def order(key: str, *, fail: bool = False) -> str:
    """Publish another task in a transaction, which is rolled back on failure."""
    with transaction.atomic():
        follow.delay(1, key)
        if fail:
            raise LookupError(key)
    return key


@task(bind=True, retries=Retries(on=(ConnectionError,), limit=2, base=0.01))
def order_at_last(self: Any, key: str, how: str) -> str:
    """Retry, defer or be replaced out of an open transaction, then succeed."""
    with transaction.atomic():
        record("test.order", actor="test", target=key)
        if self.request.retries or far_side.effects(f"again:{key}"):
            return key
        far_side.record(f"again:{key}")
        if how == "retries":
            raise ConnectionError(key)
        if how == "retry":
            raise self.retry(countdown=0.01)
        if how == "defer":
            raise Defer(0.01)
        return self.replace(follow.s(1, key))


@task
def leave_open(key: str) -> str:
    """Come back with a transaction open, as a task does that lost track of it."""
    transaction.atomic().__enter__()
    record("test.left", actor="test", target=key)
    return key


@task
def commit_and_die(key: str) -> None:
    """Die by SIGKILL between the commit and everything after it."""
    with transaction.atomic():
        follow.delay(1, key)
        transaction.on_commit(lambda: None)
        connection.run_on_commit.insert(0, (set(), lambda: os.kill(os.getpid(), signal.SIGKILL), False))


@task
def backend(seconds: float = 0.0) -> list[Any]:
    """Return the process and which connection of the database it has, once it has kept that busy for a while."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_backend_pid(), pg_sleep(%s)", [seconds])
            return [os.getpid(), cursor.fetchone()[0]]
        cursor.execute("SELECT 1")
        return [os.getpid(), id(connection.connection)]


@task
def fail_in_the_database() -> None:
    """Fail with a statement that the database refuses."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nonsense FROM nowhere")
