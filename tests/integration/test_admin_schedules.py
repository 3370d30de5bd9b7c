"""Schedules in the admin: every act needs the change permission, leaves its entries, and says what went wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask

from orchestrator import conf
from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.schedules import services
from orchestrator.schedules.scheduler import OrchestratorScheduler
from tests.support.broker import Broker
from tests.support.inbox import TASK, person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker"), pytest.mark.database]

LIST = "/admin/django_celery_beat/periodictask/"
BEAT = ("view", "change", "add", "delete")


def schedule(name: str = "Nightly", **columns: Any) -> PeriodicTask:
    every = IntervalSchedule.objects.get_or_create(every=1, period="hours")[0]
    return PeriodicTask.objects.create(
        **{"name": name, "task": TASK, "args": '["succeed"]', "interval": every, **columns}
    )


def visitor(*verbs: str, model: str = "periodictask") -> Client:
    client = Client()
    client.force_login(person("scheduling", more=[f"django_celery_beat.{verb}_{model}" for verb in verbs]))
    return client


def act(client: Client, action: str, *tasks: PeriodicTask) -> str:
    """Post an action and return what was said."""
    data = {"action": action, "_selected_action": [str(task.pk) for task in tasks]}
    response = client.post(LIST, data, follow=True)
    assert response.status_code == 200
    return " | ".join(str(message) for message in response.context["messages"])


def messages_on(broker: Broker) -> list[dict[str, Any]]:
    """Return every message that waits on any list of the broker."""
    with redis.Redis.from_url(broker.url) as store:
        ours = conf.settings().key_prefix.encode()
        lists = [key for key in store.scan_iter() if store.type(key) == b"list" and not key.startswith(ours)]
        return [json.loads(item) for key in lists for item in store.lrange(key, 0, -1)]


def form(task: PeriodicTask, /, **changes: Any) -> dict[str, Any]:
    """Return the data of the change form with some fields changed."""
    data = {
        "name": task.name,
        "regtask": "",
        "task": task.task,
        "enabled": "on" if task.enabled else "",
        "interval": str(task.interval_id or ""),
        "crontab": str(task.crontab_id or ""),
        "args": task.args,
        "kwargs": task.kwargs,
        "headers": task.headers or "{}",
    }
    return {key: value for key, value in {**data, **changes}.items() if value != ""}


# --- permissions -------------------------------------------------------------------


@pytest.mark.parametrize("action", ["enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks"])
def test_those_who_may_only_look_can_do_nothing(action: str, broker: Broker) -> None:
    on, off = schedule("on"), schedule("off", enabled=False)
    client = visitor("view")
    assert f'value="{action}"' not in client.get(LIST).content.decode()
    act(client, action, on, off)
    on.refresh_from_db()
    off.refresh_from_db()
    assert (on.enabled, off.enabled) == (True, False)
    assert not messages_on(broker)
    assert not LogEntry.objects.exists()
    assert not AuditEntry.objects.exists()


def test_a_form_cannot_be_saved_by_those_who_may_only_look() -> None:
    task = schedule()
    client = visitor("view")
    assert client.get(f"{LIST}{task.pk}/change/").status_code == 200
    assert client.post(f"{LIST}{task.pk}/change/", form(task, name="Other")).status_code == 403
    assert client.post(f"{LIST}{task.pk}/delete/", {"post": "yes"}).status_code == 403
    task.refresh_from_db()
    assert task.name == "Nightly"


# --- acts --------------------------------------------------------------------------


def entries() -> list[tuple[str, str]]:
    return list(AuditEntry.objects.order_by("pk").values_list("action", "target"))


def test_turning_on_and_off_leaves_an_entry_for_each_row_that_changed() -> None:
    on, off = schedule("on"), schedule("off", enabled=False)
    client = visitor("view", "change")
    assert "1 disabled, 1 unchanged" in act(client, "disable_tasks", on, off)
    assert "2 enabled" in act(client, "enable_tasks", on, off)
    act(client, "toggle_tasks", on)
    on.refresh_from_db()
    off.refresh_from_db()
    assert (on.enabled, off.enabled) == (False, True)
    expected = [
        ("schedule.disable", "on"),
        ("schedule.enable", "off"),
        ("schedule.enable", "on"),
        ("schedule.disable", "on"),
    ]
    assert sorted(entries()) == sorted(expected)
    assert AuditEntry.objects.filter(actor="scheduling").count() == 4
    assert LogEntry.objects.count() == 4


def test_a_schedule_turned_on_again_waits_its_turn() -> None:
    task = schedule(enabled=False)
    PeriodicTask.objects.filter(pk=task.pk).update(date_changed=timezone.now() - timedelta(days=7))
    act(visitor("view", "change"), "enable_tasks", task)
    task.refresh_from_db()
    due = services.next_run(task)
    assert due is not None
    assert due > timezone.now() + timedelta(minutes=55)


def test_run_now_uses_every_option_of_the_schedule(broker: Broker) -> None:
    options = {"queue": "reports", "priority": 7, "expire_seconds": 600, "headers": '{"tenant": "north"}'}
    task = schedule(kwargs='{"value": 3}', **options)
    said = act(visitor("view", "change"), "run_tasks", task)
    [message] = messages_on(broker)
    headers, properties = message["headers"], message["properties"]
    assert headers["id"] in said
    assert headers["tenant"] == "north"
    assert headers["periodic_task_name"] == "Nightly"
    assert properties["priority"] == 7
    assert properties["delivery_info"]["routing_key"] == "reports"
    left = datetime.fromisoformat(headers["expires"]) - timezone.now()
    assert timedelta(seconds=500) < left <= timedelta(seconds=600)
    entry = AuditEntry.objects.get(action="schedule.run")
    assert (entry.target, entry.details["task_id"]) == ("Nightly", headers["id"])
    assert LogEntry.objects.count() == 1


def test_run_now_uses_exchange_and_routing_key(broker: Broker) -> None:
    with get_app().connection_for_write() as connection:
        # Declared as a worker does; nobody else binds a queue to an exchange that a schedule names.
        get_app().amqp.queues["celery"].bind(connection.default_channel).declare()
    act(visitor("view", "change"), "run_tasks", schedule(exchange="celery", routing_key="celery"))
    [message] = messages_on(broker)
    assert message["properties"]["delivery_info"] == {"exchange": "celery", "routing_key": "celery"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"task": "tests.support.zoo.edn"}, "did you mean 'tests.support.zoo.end'"),
        ({"args": "[1"}, "Broken JSON at line 1"),
        ({"kwargs": "[]"}, "This is a list"),
        ({"headers": "3"}, "This is a number"),
        ({"expires": datetime(2020, 1, 1, tzinfo=UTC)}, "expired at 2020-01-01"),
    ],
)
def test_what_cannot_run_is_said_and_the_others_run(columns: dict[str, Any], message: str, broker: Broker) -> None:
    broken, fine = schedule("broken", **columns), schedule("fine")
    said = act(visitor("view", "change"), "run_tasks", broken, fine)
    assert message in said
    assert "Published 1: fine as " in said
    assert len(messages_on(broker)) == 1
    assert entries() == [("schedule.run", "fine")]
    assert LogEntry.objects.count() == 1


def test_with_the_broker_down_nothing_is_recorded_as_run(broker: Broker) -> None:
    first, second = schedule("first"), schedule("second")
    client = visitor("view", "change")
    broker.stop()
    try:
        said = act(client, "run_tasks", first, second)
    finally:
        broker.start()
    assert said.count("the broker cannot be reached") == 1
    assert "ORCHESTRATOR_BROKER_URL" in said
    assert "Published" not in said
    assert not AuditEntry.objects.exists()
    assert not LogEntry.objects.exists()


# --- forms --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"task": "tests.support.zoo.edn"}, "task", "did you mean"),
        ({"args": '["succeed"'}, "args", "Broken JSON at line 1, column 11"),
        ({"args": "{}"}, "args", "This is an object"),
        ({"kwargs": "[]"}, "kwargs", "This is a list"),
        ({"headers": "[]"}, "headers", "This is a list"),
        ({"args": "[]"}, "args", "do not fit"),
        ({"task": ""}, "task", "Need name of task"),
    ],
)
def test_a_schedule_that_could_not_run_is_refused(changes: dict[str, str], field: str, message: str) -> None:
    task = schedule()
    response = visitor("view", "change").post(f"{LIST}{task.pk}/change/", form(task, **changes))
    assert response.status_code == 200
    assert message in " ".join(response.context["adminform"].form.errors[field])
    assert not AuditEntry.objects.exists()
    task.refresh_from_db()
    assert (task.task, task.args, task.kwargs) == (TASK, '["succeed"]', "{}")


def test_a_schedule_of_a_task_that_is_gone_can_still_be_turned_off() -> None:
    task = schedule(task="shop.gone")
    client = visitor("view", "change")
    assert client.post(f"{LIST}{task.pk}/change/", form(task, enabled="")).status_code == 302
    task.refresh_from_db()
    assert not task.enabled
    assert client.post(f"{LIST}{task.pk}/change/", form(task, enabled="on")).status_code == 200


def test_the_form_has_words_for_no_crontab() -> None:
    """Its script looks the chosen one up, and "no crontab" is a choice."""
    page = visitor(*BEAT).get(f"{LIST}{schedule().pk}/change/").content.decode()
    words = page.split('<script id="readable-crontabs" type="application/json">')[1].split("</script>")[0]
    assert json.loads(words)[""] == "none chosen"


def test_adding_editing_and_deleting_leave_entries() -> None:
    client = visitor(*BEAT)
    draft = schedule("draft")
    assert client.post(f"{LIST}add/", form(draft, name="Weekly")).status_code == 302
    task = PeriodicTask.objects.get(name="Weekly")
    assert client.post(f"{LIST}{task.pk}/change/", form(task, args='["fail"]')).status_code == 302
    assert client.post(f"{LIST}{task.pk}/delete/", {"post": "yes"}).status_code == 302
    data = {"action": "delete_selected", "_selected_action": [str(draft.pk)], "post": "yes"}
    assert client.post(LIST, data).status_code == 302
    assert entries() == [
        ("schedule.add", "Weekly"),
        ("schedule.change", "Weekly"),
        ("schedule.delete", "Weekly"),
        ("schedule.delete", "draft"),
    ]
    assert AuditEntry.objects.get(action="schedule.change").details["fields"] == ["args"]
    assert LogEntry.objects.count() == 4


def test_deleting_an_interval_names_the_schedules_that_go_with_it() -> None:
    task = schedule()
    client = Client()
    client.force_login(person("admin"))
    client.post(f"/admin/django_celery_beat/intervalschedule/{task.interval_id}/delete/", {"post": "yes"})
    assert not PeriodicTask.objects.exists()
    assert AuditEntry.objects.get(action="interval.delete").details["schedules"] == ["Nightly"]


def test_a_crontab_that_never_comes_is_refused() -> None:
    client = Client()
    client.force_login(person("admin"))
    data = {
        "minute": "0",
        "hour": "4",
        "day_of_month": "30",
        "month_of_year": "2",
        "day_of_week": "*",
        "timezone": "UTC",
    }
    add = "/admin/django_celery_beat/crontabschedule/add/"
    response = client.post(add, data)
    assert "never comes" in response.content.decode()
    assert not CrontabSchedule.objects.exists()
    assert client.post(add, {**data, "month_of_year": "3"}).status_code == 302
    assert entries() == [("crontab.add", str(CrontabSchedule.objects.get()))]


# --- next run -----------------------------------------------------------------------


def test_next_run() -> None:
    now = timezone.now()
    hourly = schedule("hourly", last_run_at=now - timedelta(minutes=20))
    due = services.next_run(hourly)
    assert due is not None
    assert abs(due - (now + timedelta(minutes=40))) < timedelta(seconds=2)
    overdue = services.next_run(schedule("overdue", last_run_at=now - timedelta(hours=3)))
    assert overdue is not None
    assert overdue < now
    berlin = CrontabSchedule.objects.create(minute="30", hour="4", timezone="Europe/Berlin")
    nightly = services.next_run(schedule("nightly", interval=None, crontab=berlin))
    assert nightly is not None
    assert now < nightly < now + timedelta(hours=25)
    local = nightly.astimezone(berlin.timezone)
    assert (local.hour, local.minute, local.second) == (4, 30, 0)
    moment = now + timedelta(days=3)
    clocked = ClockedSchedule.objects.create(clocked_time=moment)
    assert services.next_run(schedule("once", interval=None, clocked=clocked, one_off=True)) == moment
    assert services.next_run(schedule("starts", start_time=moment)) == moment
    assert services.next_run(schedule("off", enabled=False)) is None
    assert services.next_run(schedule("done", one_off=True, total_run_count=1)) is None
    never = CrontabSchedule.objects.create(day_of_month="30", month_of_year="2")
    assert services.next_run(schedule("never", interval=None, crontab=never)) is None
    page = visitor("view").get(LIST).content.decode()
    assert "due now" in page
    assert f"{timezone.localtime(moment):%H:%M:%S}" in page


def test_the_scheduler_knows_crontabs_of_every_hour() -> None:
    for hour in range(24):
        crontab = CrontabSchedule.objects.create(minute="0", hour=str(hour))
        schedule(f"at {hour}", interval=None, crontab=crontab)
    far = ClockedSchedule.objects.create(clocked_time=timezone.now() + timedelta(days=1))
    schedule("far away", interval=None, clocked=far, one_off=True)
    scheduler = OrchestratorScheduler(get_app(), lazy=True)
    assert {task.name for task in scheduler.enabled_models()} == {f"at {hour}" for hour in range(24)}
