"""Links between pages of apps that do not know one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from django.contrib.auth.models import AnonymousUser
from django.db import connections, router
from django.urls import reverse
from django_celery_results.models import TaskResult

from orchestrator import conf
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.runs.models import Attempt

#: Open letters that the banner counts; beyond, it says "100+".
BANNER_CAP = 100

Link = tuple[str, str]


def of_task(task_id: str) -> list[Link]:
    """Return pages elsewhere about one task id: its result, and itself in Flower."""
    links = []
    result = TaskResult.objects.filter(task_id=task_id).values_list("pk", "status").first() if task_id else None
    if result:
        url = reverse("admin:django_celery_results_taskresult_change", args=[result[0]])
        links.append((f"Result of {task_id}: {result[1]}", url))
    flower = conf.settings().flower_url.rstrip("/")
    if flower and task_id:
        links.append((f"{task_id} in Flower", f"{flower}/task/{quote(task_id, safe='')}"))
    return links


def history_of(task_id: str) -> list[Link]:
    """Return the page of a task's attempts, if any did not simply succeed."""
    if not task_id or not Attempt.objects.filter(task_id=task_id).exists():
        return []
    url = reverse("admin:orchestrator_runs_attempt_changelist")
    return [(f"Attempts at {task_id}", f"{url}?{urlencode({'q': task_id})}")]


def of_attempt(task_id: str) -> list[Link]:
    """Return pages elsewhere about the task of an attempt."""
    return [*of_task(task_id), *letters_of(task_id), *history_of(task_id)]


def of_letter(letter: DeadLetter) -> list[Link]:
    """Return pages elsewhere about a dead letter and about what it was redriven as."""
    links = [*of_task(letter.task_id), *history_of(letter.task_id)]
    return [*links, *of_task(letter.redriven_as)] if letter.redriven_as else links


def of_result(task_id: str) -> list[Link]:
    """Return the dead letters of a task id, the newest first, and its attempts."""
    return [*letters_of(task_id), *history_of(task_id)]


def letters_of(task_id: str) -> list[Link]:
    """Return the dead letters of a task id, the newest first."""
    rows = DeadLetter.objects.filter(task_id=task_id)[:5]
    return [
        (
            f"Dead letter of {letter.died_at:%Y-%m-%d %H:%M:%S}, {State(letter.state).label.lower()}",
            reverse("admin:orchestrator_deadletters_deadletter_change", args=[letter.pk]),
        )
        for letter in rows.only("pk", "died_at", "state")
    ]


def last_results(schedules: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return number and state of the latest result of some schedules, by the schedule's name, with one query.

    Each name is looked for by itself, as a constant: a schedule has many results or none, and only a planner that sees
    the name knows which. (As a subquery of the list this took minutes on PostgreSQL, with a million results.)
    """
    if not schedules:
        return {}
    using = connections[router.db_for_read(TaskResult)]
    results = TaskResult.objects.using(using.alias).order_by("-date_done")
    parts, parameters = [], list[Any]()
    for number, name in enumerate(schedules):
        latest = results.filter(periodic_task_name=name).values_list("periodic_task_name", "pk", "status")[:1]
        sql, given = latest.query.get_compiler(using=using.alias).as_sql()
        parts.append(f"SELECT * FROM ({sql}) AS latest_{number}")  # noqa: S608 - of our own query
        parameters += given
    with using.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), parameters)
        return {name: (pk, status) for name, pk, status in cursor.fetchall()}


def open_letters(user: Any) -> str:
    """Return how many letters are open as a short text, empty for none or for nobody who may see them."""
    if isinstance(user, AnonymousUser) or not user.has_perm("orchestrator_deadletters.view_deadletter"):
        return ""
    count = DeadLetter.objects.filter(state=State.OPEN).order_by()[: BANNER_CAP + 1].count()
    if not count:
        return ""
    return f"{BANNER_CAP}+" if count > BANNER_CAP else str(count)
