"""Tables of results and schedules of any size, for pages that must stay usable.

``DATABASE_URL=… python -m tests.support.masses 1000000 1000000`` fills a database, looks at each
page with a query counter, and prints queries and seconds.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from django.db.models import CharField, TextField
from django.urls import reverse

#: Names of tasks.
TASKS = 40

#: Lists and, after a row was put in, its detail page.
PAGES = {
    "results": "/admin/django_celery_results/taskresult/",
    "results, filtered": "/admin/django_celery_results/taskresult/?task_name=shop.task_1&status=FAILURE",
    "results, searched": "/admin/django_celery_results/taskresult/?q=id-17",
    "results, searched in vain": "/admin/django_celery_results/taskresult/?q=nothing-like-it",
    "results, of a day": "/admin/django_celery_results/taskresult/?date_done__gte=2026-06-01&date_done__lt=2026-06-02",
    "results, by task": "/admin/django_celery_results/taskresult/?o=2",
    "results, by date": "/admin/django_celery_results/taskresult/?o=-3",
    "results, far on": "/admin/django_celery_results/taskresult/?p=100",
    "groups": "/admin/django_celery_results/groupresult/",
    "groups, searched": "/admin/django_celery_results/groupresult/?q=group-17",
    "schedules": "/admin/django_celery_beat/periodictask/",
    "schedules, searched": "/admin/django_celery_beat/periodictask/?q=schedule-17",
    "schedules, searched in vain": "/admin/django_celery_beat/periodictask/?q=nothing-like-it",
    "schedules, filtered": "/admin/django_celery_beat/periodictask/?enabled__exact=0",
    "schedules, by runs": "/admin/django_celery_beat/periodictask/?o=-6",
    "schedules, by last run": "/admin/django_celery_beat/periodictask/?o=-5",
    "a new schedule": "/admin/django_celery_beat/periodictask/add/",
    "intervals": "/admin/django_celery_beat/intervalschedule/",
    "crontabs": "/admin/django_celery_beat/crontabschedule/",
    "solar events": "/admin/django_celery_beat/solarschedule/",
    "fixed times": "/admin/django_celery_beat/clockedschedule/",
    "attempts": "/admin/orchestrator_runs/attempt/",
}


def fill(rows: int, schedules: int) -> None:
    """Write so many results, and groups and attempts for a tenth of them, and schedules.

    The database makes the rows itself, so that a million takes seconds.
    """
    from django.db import connection, transaction
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    from django_celery_results.models import GroupResult, TaskResult

    from orchestrator.runs.models import Attempt

    every, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.DAYS)
    encoded = {"content_type": "'application/json'", "content_encoding": "'utf-8'"}
    date = "'2026-06-01 12:00:00+00'"
    task = f"'shop.task_' || (n % {TASKS})"
    with transaction.atomic(), connection.cursor() as cursor:
        for model, count, columns in (
            (
                TaskResult,
                rows,
                {
                    **encoded,
                    "task_id": "'id-' || n",
                    "task_name": task,
                    "status": "CASE n % 20 WHEN 18 THEN 'FAILURE' WHEN 19 THEN 'STARTED' ELSE 'SUCCESS' END",
                    "worker": "'worker-' || (n % 5) || '@test'",
                    "periodic_task_name": "CASE n % 3 WHEN 0 THEN 'schedule-' || (n % 100) END",
                    "result": "'7'",
                    **dict.fromkeys(("date_created", "date_started", "date_done"), date),
                },
            ),
            (
                GroupResult,
                rows // 10,
                {**encoded, "group_id": "'group-' || n", "result": "'[]'", "date_created": date, "date_done": date},
            ),
            (
                Attempt,
                rows // 10,
                {
                    "attempt_id": "'attempt-' || n",
                    "task": task,
                    "task_id": "'id-' || n",
                    "verdict": "'retried'",
                    "error_type": "'ConnectionError'",
                    "retries": "0",
                    "ended_at": date,
                },
            ),
            (
                PeriodicTask,
                schedules,
                {
                    "name": "'schedule-' || n",
                    "task": task,
                    "interval_id": str(every.pk),
                    "enabled": "1=1",
                    "one_off": "1=0",
                    "total_run_count": "n",
                    "date_changed": date,
                    "args": "'[]'",
                    "kwargs": "'{}'",
                    "headers": "'{}'",
                },
            ),
        ):
            cursor.execute(_insert(model, count, columns, sqlite=connection.vendor == "sqlite"))
        if connection.vendor == "postgresql":
            # What a table of this size has long since had.
            cursor.execute("ANALYZE")


def _insert(model: Any, count: int, columns: Mapping[str, str], *, sqlite: bool) -> str:
    """Return a statement that makes ``count`` rows, numbered ``n``; text that is not given is empty."""
    empty = {
        field.column: "''"
        for field in model._meta.concrete_fields
        if isinstance(field, CharField | TextField) and not field.null and field.column not in columns
    }
    values = {**empty, **columns}
    numbers = (
        f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {count})"
        if sqlite
        else f"WITH numbers AS (SELECT n FROM generate_series(0, {count - 1}) AS n)"
    )
    names = ", ".join(f'"{name}"' for name in values)
    return f"INSERT INTO {model._meta.db_table} ({names}) {numbers} SELECT {', '.join(values.values())} FROM numbers"


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


def pages() -> dict[str, str]:
    """Return the path of every page, details among them."""
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    from django_celery_results.models import GroupResult, TaskResult

    found = dict(PAGES)
    for name, model in {
        "one result": TaskResult,
        "one group": GroupResult,
        "one schedule": PeriodicTask,
        "one interval": IntervalSchedule,
    }.items():
        last: Any = model._default_manager.order_by("-pk").first()
        found[name] = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[last.pk])
    return found


def main(rows: int, schedules: int) -> None:
    """Fill the database of this environment and look at every page, the second time with a clock."""
    import django

    django.setup()
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client

    settings.ALLOWED_HOSTS = ["testserver"]
    call_command("migrate", verbosity=0)
    begun = time.perf_counter()
    fill(rows, schedules)
    print(json.dumps({"results": rows, "schedules": schedules, "filled_in": round(time.perf_counter() - begun, 1)}))
    client = Client()
    client.force_login(get_user_model().objects.create_superuser(f"masses-{time.time()}"))
    for name, path in pages().items():
        look(client, path)
        statements, seconds = look(client, path)
        full = [statement for statement in statements if counts_all(statement)]
        told = {"page": name, "queries": len(statements), "seconds": round(seconds, 3), "full_counts": full}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
