"""Tables of results and schedules of any size, for pages that must stay usable.

``DATABASE_URL=… python -m tests.support.masses 1000000`` fills a database, looks at each
page with a query counter, and prints queries and seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

BATCH = 2_000
TASKS = [f"shop.task_{number}" for number in range(40)]
STATES = ["SUCCESS"] * 18 + ["FAILURE", "STARTED"]

#: Lists and, after a row was put in, its detail page.
PAGES = {
    "results": "/admin/django_celery_results/taskresult/",
    "results, filtered": "/admin/django_celery_results/taskresult/?task_name=shop.task_1&status=FAILURE",
    "results, searched": "/admin/django_celery_results/taskresult/?q=id-17",
    "results, far on": "/admin/django_celery_results/taskresult/?p=100",
    "groups": "/admin/django_celery_results/groupresult/",
    "schedules": "/admin/django_celery_beat/periodictask/",
    "schedules, searched": "/admin/django_celery_beat/periodictask/?q=schedule-17",
    "attempts": "/admin/orchestrator_runs/attempt/",
}


def fill(rows: int, schedules: int) -> None:
    """Write so many results, and groups and attempts for some of them, and schedules."""
    from django.utils import timezone
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    from django_celery_results.models import GroupResult, TaskResult

    from orchestrator.runs.models import Attempt

    now = timezone.now()
    encoded = {"content_type": "application/json", "content_encoding": "utf-8"}
    _store(
        TaskResult,
        (
            TaskResult(
                task_id=f"id-{number}",
                task_name=TASKS[number % len(TASKS)],
                status=STATES[number % len(STATES)],
                worker=f"worker-{number % 5}@test",
                periodic_task_name=f"schedule-{number % 100}" if number % 3 == 0 else None,
                result="7",
                date_started=now,
                **encoded,
            )
            for number in range(rows)
        ),
    )
    _store(GroupResult, (GroupResult(group_id=f"group-{n}", result="[]", **encoded) for n in range(rows // 10)))
    _store(
        Attempt,
        (
            Attempt(
                attempt_id=f"attempt-{number}",
                task=TASKS[number % len(TASKS)],
                task_id=f"id-{number}",
                verdict="retried",
                error_type="ConnectionError",
                ended_at=now - timedelta(seconds=number),
            )
            for number in range(rows // 10)
        ),
    )
    every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.DAYS)
    _store(
        PeriodicTask,
        (PeriodicTask(name=f"schedule-{n}", task=TASKS[n % len(TASKS)], interval=every) for n in range(schedules)),
    )


def look(client: Any, path: str) -> tuple[list[str], float]:
    """Return the statements and the seconds that a page takes.

    Raises:
        AssertionError: it does not answer.
    """
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    begun = time.perf_counter()
    with CaptureQueriesContext(connection) as asked:
        response = client.get(path)
    assert response.status_code == 200, (path, response.status_code)
    return [query["sql"] for query in asked.captured_queries], time.perf_counter() - begun


def counts_all(statement: str) -> bool:
    """Whether a statement counts rows without a bound."""
    return "COUNT(" in statement.upper() and "LIMIT" not in statement.upper()


def _store(model: Any, rows: Iterator[Any]) -> None:
    while some := list(islice(rows, BATCH)):
        model.objects.bulk_create(some)


def main(rows: int, schedules: int) -> None:
    """Fill the database of this environment and look at every page."""
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client
    from django_celery_results.models import TaskResult

    settings.ALLOWED_HOSTS = ["testserver"]
    call_command("migrate", verbosity=0)
    fill(rows, schedules)
    client = Client()
    client.force_login(get_user_model().objects.create_superuser(f"masses-{time.time()}"))
    detail = f"/admin/django_celery_results/taskresult/{TaskResult.objects.order_by('-pk').first().pk}/change/"
    for name, path in {**PAGES, "one result": detail}.items():
        look(client, path)
        statements, seconds = look(client, path)
        full = [statement for statement in statements if counts_all(statement)]
        print(json.dumps({"page": name, "queries": len(statements), "seconds": round(seconds, 3), "full_counts": full}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
