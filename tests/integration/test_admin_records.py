"""Results, audit entries and the front page in the admin."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import GroupResult, TaskResult

from orchestrator.audit.models import AuditEntry
from orchestrator.audit.services import record
from orchestrator.console import links
from orchestrator.deadletters import services
from tests.support.inbox import TRACEBACK, filed, person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker"), pytest.mark.database]

RESULTS = "/admin/django_celery_results/taskresult/"
AUDIT = "/admin/orchestrator_audit/auditentry/"


def result(task_id: str, **columns: Any) -> TaskResult:
    failure = json.dumps({"exc_type": "ConnectionError", "exc_message": ["refused"], "exc_module": "builtins"})
    defaults = {
        "task_name": "shop.send",
        "status": "FAILURE",
        "result": failure,
        "traceback": TRACEBACK,
        "worker": "worker@test",
        "content_type": "application/json",
        "content_encoding": "utf-8",
    }
    return TaskResult.objects.create(task_id=task_id, **{**defaults, **columns})


def visitor(*permissions: str) -> Client:
    client = Client()
    client.force_login(person("looking", more=permissions))
    return client


def detail(row: TaskResult) -> str:
    return reverse("admin:django_celery_results_taskresult_change", args=[row.pk])


def listed(client: Client, path: str) -> list[Any]:
    response = client.get(path)
    assert response.status_code == 200, path
    return list(response.context["cl"].result_list)


@pytest.mark.parametrize("model", ["taskresult", "groupresult"])
def test_results_are_only_shown(model: str) -> None:
    row = result("one") if model == "taskresult" else GroupResult.objects.create(group_id="g", result="[]")
    client = Client()
    client.force_login(person("admin"))
    base = f"/admin/django_celery_results/{model}/"
    page = client.get(f"{base}{row.pk}/change/").content.decode()
    assert 'name="_save"' not in page
    assert client.get(f"{base}add/").status_code == 403
    assert client.post(f"{base}{row.pk}/change/", {"status": "SUCCESS"}).status_code == 403
    assert client.post(f"{base}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in client.get(base).content.decode()
    assert type(row).objects.count() == 1


def test_a_failed_result_shows_an_indented_traceback_and_leads_to_its_letter_and_back() -> None:
    letter = filed()
    row = result(letter.task_id)
    client = visitor("django_celery_results.view_taskresult", "orchestrator_deadletters.view_deadletter")
    page = client.get(detail(row)).content.decode()
    assert "\n    receipt = gateway.charge(\n        order.amount,\n" in page
    letter_page = reverse("admin:orchestrator_deadletters_deadletter_change", args=[letter.pk])
    assert letter_page in page
    assert detail(row) in client.get(letter_page).content.decode()


def test_half_a_surrogate_pair_in_a_result_can_be_shown() -> None:
    row = result("half", status="SUCCESS", result=r'"half \ud800"', traceback=None)
    client = visitor("django_celery_results.view_taskresult")
    assert r"half \ud800" in client.get(detail(row)).content.decode()


def test_a_redriven_letter_leads_to_the_result_of_its_new_run() -> None:
    letter = filed()
    row = result(services.redrive(letter.pk), status="SUCCESS", result='"done"', traceback=None)
    client = Client()
    client.force_login(person("admin"))
    page = client.get(reverse("admin:orchestrator_deadletters_deadletter_change", args=[letter.pk]))
    assert detail(row) in page.content.decode()


def test_a_schedule_shows_how_its_last_run_ended() -> None:
    every = IntervalSchedule.objects.create(every=1, period="hours")
    for name in ("Nightly", "Never ran"):
        PeriodicTask.objects.create(name=name, task="shop.send", interval=every)
    result("old", periodic_task_name="Nightly")
    newest = result("new", periodic_task_name="Nightly", status="SUCCESS")
    page = visitor("django_celery_beat.view_periodictask").get("/admin/django_celery_beat/periodictask/")
    assert {task.name: task.last_result and task.last_result[1] for task in page.context["cl"].result_list} == {
        "Nightly": "SUCCESS",
        "Never ran": None,
    }
    assert detail(newest) in page.content.decode()


def test_results_are_found_by_id_name_and_filters() -> None:
    first = result("11111111-aaaa")
    second = result("22222222-bbbb", task_name="shop.report", status="SUCCESS", periodic_task_name="Nightly")
    client = visitor("django_celery_results.view_taskresult")
    expected = {
        "q=11111111-aaaa": [first],
        "q=report": [second],
        "q=Nightly": [second],
        "status=SUCCESS": [second],
        "task_name=shop.send": [first],
        "periodic_task_name=Nightly": [second],
        "q=nothing": [],
    }
    for query, rows in expected.items():
        assert listed(client, f"{RESULTS}?{query}") == rows, query


@pytest.mark.parametrize("path", [RESULTS, AUDIT])
def test_lists_count_only_up_to_the_cap(
    path: str, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    from orchestrator.audit.browsing import CappedPaginator

    for number in range(8):
        result(f"id-{number}")
        record("test.note", target=str(number))
    monkeypatch.setattr(CappedPaginator, "cap", 5)
    client = Client()
    client.force_login(person("admin"))
    with django_assert_max_num_queries(12, connection=connection) as seen:
        page = client.get(path).content.decode()
    assert "more than 5" in page
    counts = [query["sql"] for query in seen.captured_queries if "COUNT(" in query["sql"].upper()]
    assert counts
    assert all("LIMIT 6" in sql for sql in counts), counts


def test_audit_entries_are_only_shown_and_found() -> None:
    user = person("admin")
    entry = record("schedule.run", by=user, target="Nightly", task_id="one")
    record("deadletter.discard", target="two", reason="<b>done</b>")
    client = Client()
    client.force_login(user)
    assert [row.target for row in listed(client, f"{AUDIT}?q=Nigh")] == ["Nightly"]
    assert [row.target for row in listed(client, f"{AUDIT}?action=deadletter.discard")] == ["two"]
    assert [row.target for row in listed(client, f"{AUDIT}?actor=admin")] == ["Nightly"]
    assert len(listed(client, f"{AUDIT}?at__gte=2020-01-01+00:00:00%2B00:00")) == 2
    assert "<b>done</b>" not in client.get(AUDIT).content.decode()
    page = client.get(f"{AUDIT}{entry.pk}/change/").content.decode()
    assert "task_id" in page
    assert client.get(f"{AUDIT}add/").status_code == 403
    assert client.post(f"{AUDIT}{entry.pk}/change/", {"actor": "somebody"}).status_code == 403
    assert client.post(f"{AUDIT}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    assert visitor().get(AUDIT).status_code == 403
    assert AuditEntry.objects.count() == 2


def test_the_front_page_shows_how_many_letters_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    viewer, stranger = Client(), Client()
    viewer.force_login(person("viewer"))
    stranger.force_login(person("nobody"))
    assert "open-letters" not in viewer.get("/admin/").content.decode()
    filed()
    assert "<b>1</b> open dead letter</a>" in viewer.get("/admin/").content.decode()
    filed()
    assert "<b>2</b> open dead letters</a>" in viewer.get("/admin/").content.decode()
    monkeypatch.setattr(links, "BANNER_CAP", 1)
    assert "<b>1+</b> open dead letters</a>" in viewer.get("/admin/").content.decode()
    assert "open-letters" not in stranger.get("/admin/").content.decode()


def test_a_page_that_does_not_exist_is_a_404() -> None:
    # Django renders any template named 404.html that an installed app offers, whatever language it is in.
    assert Client().get("/no/such/page/").status_code == 404
