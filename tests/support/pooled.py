"""Tasks that tell which connection of the database they and their worker have."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from django.db import connection

from orchestrator import task
from tests.support import far_side


def backend_pid() -> int:
    """Return the process of the server that serves this one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@task
def die() -> None:
    """Die by SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


@task
def tell(request: Any, error: Any, traceback: Any) -> None:
    """Note the process that finds out that a task has failed, and its connection: an error callback runs there."""
    far_side.record("settled", pid=os.getpid(), backend=backend_pid())


@task
def look() -> dict[str, Any]:
    """Tell this process, its connection, and the threads that its pool has."""
    pid = backend_pid()
    threads = [each.name for each in threading.enumerate() if each.name.startswith("pool-") and each.is_alive()]
    return {"pid": os.getpid(), "backend": pid, "threads": len(threads), "time_zone": _time_zone()}


@task
def walk(rows: int) -> int:
    """Go through rows of a query as they come, outside of a transaction."""
    from django_celery_results.models import TaskResult

    return sum(1 for _ in TaskResult.objects.all()[:rows].iterator(chunk_size=10))


def _time_zone() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW TimeZone")
        return str(cursor.fetchone()[0])
