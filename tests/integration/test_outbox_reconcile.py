"""After a broker lost what it had confirmed, the outbox finds what is nowhere, and sends it again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator import RateLimit, task
from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.errors import ConfigurationError
from orchestrator.deadletters.models import DeadLetter
from orchestrator.monitoring import queues as counting
from orchestrator.outbox import reconciling, sending, services, sweep
from orchestrator.outbox.models import OutboxMessage
from orchestrator.outbox.reconciling import reconcile
from orchestrator.policies.outbox import lease_of
from tests.conftest import Platform
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.outbox import waiting
from tests.support.people import PASSWORD, person
from tests.support.wait import eventually
from tests.support.zoo import add, follow, shown

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@task(limits=[RateLimit("reconcile-once", "1/h")])
def seldom(key: str) -> None:
    """A task whose second message waits for its limit."""


@pytest.fixture(autouse=True)
def at_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is too fresh to be looked at; the broker runs at the end."""
    monkeypatch.setattr(reconciling, "FRESH", -1.0)
    monkeypatch.setattr(reconciling, "PAUSE", 0.05)
    monkeypatch.setattr(reconciling, "PATIENCE", 0.5)
    yield
    sending.rest(0)


def commit(key: str, **options: Any) -> str:
    """Publish in a transaction of its own; return the task id."""
    with transaction.atomic():
        return str(follow.apply_async((1, key), **options).id)


def found(report: reconciling.Report) -> dict[str, int]:
    return {kind.value: count for kind, count in report.counts.items() if count}


def queued(broker: Broker) -> list[str]:
    return [json.loads(raw)["headers"]["id"] for raw in reversed(broker.client.lrange("celery", 0, -1))]


def command(*arguments: str) -> dict[str, Any]:
    out = StringIO()
    call_command("outbox", "reconcile", "--json", *arguments, stdout=out)
    answer: dict[str, Any] = json.loads(out.getvalue())
    return answer


class OwnBroker:
    """What a failover that loses writes looks like: the server dies, and one comes back with older data."""

    def __init__(self, broker: Broker, copy: Path) -> None:
        self.broker = broker
        self.home = Path(broker.client.config_get("dir")["dir"])
        self.copy = copy

    def remember(self) -> None:
        """Copy the data as it is now."""
        self.broker.client.bgrewriteaof()
        eventually(lambda: not self.broker.client.info("persistence")["aof_rewrite_in_progress"])
        shutil.copytree(self.home / "appendonlydir", self.copy)

    def fail_over(self) -> None:
        """Kill it, and start it from the copy."""
        self.broker.kill()
        shutil.rmtree(self.home / "appendonlydir")
        shutil.copytree(self.copy, self.home / "appendonlydir")
        self.broker.start()
        sending.rest(0)


def test_what_a_failover_lost_is_sent_again_and_nothing_else(platform: Platform, tmp_path: Path) -> None:
    """A real server, killed and started from an older copy of its data."""
    broker = platform.broker
    failing = OwnBroker(broker, tmp_path / "copy")
    mail = platform.worker(queues=["mail"])
    commit("done before", queue="mail", ignore_result=True)
    eventually(services.forget_ended, message="its end was told")
    kept = [commit("kept"), commit("kept later", countdown=3600)]
    failing.remember()

    commit("done after", queue="mail")
    eventually(services.forget_ended, message="its end was told, and is not forgotten by the failover")
    mail.stop()
    lost = [commit("lost", ordering_key="a"), commit("lost, too", ordering_key="a"), commit("later", countdown=3600)]
    failing.fail_over()

    assert queued(broker) == kept[:1]
    preview = command("--dry-run")
    assert (preview["there"], preview["lost"], preview["unknown"], preview["sent_again"]) == (2, 3, 0, 0)
    assert [item["task_id"] for item in preview["items"]] == lost
    assert queued(broker) == kept[:1]
    done = command()
    assert (done["lost"], done["sent_again"]) == (3, 3)
    assert queued(broker) == [*kept[:1], *lost[:2]]
    assert AuditEntry.objects.get(action="outbox.reconcile").details == {"lost": 3}
    again = command()
    assert (again["there"], again["lost"], again["sent_again"]) == (5, 0, 0)
    assert AuditEntry.objects.count() == 1

    platform.worker()
    ran = ("done before", "done after", "kept", "lost", "lost, too")
    for key in ran:
        eventually(lambda key=key: far_side.effects(key), message=key)  # type: ignore[misc]
    eventually(
        lambda: services.forget_ended() + OutboxMessage.objects.count() == 2, message="but what waits for its time"
    )
    assert [len(far_side.effects(key)) for key in ran] == [1] * 5


def test_every_place_in_the_broker_is_looked_into(platform: Platform) -> None:
    worker = platform.worker(concurrency=1, env={"ORCHESTRATOR_TEST_IMPORTS": __name__})
    with transaction.atomic():
        for key in ("first", "parked"):
            seldom.delay(key)
        shown.delay(60)
    eventually(lambda: counting.parked(2.0) and counting.in_flight(2.0) == 1 and not queued(platform.broker))
    eventually(lambda: services.forget_ended(), message="the end of the first was told")
    client = platform.broker.client
    (held,) = client.keys("orchestrator:inflight:*")
    client.rename(held, "no queue of anybody")
    assert found(reconcile(dry_run=True)) == {"there": 2}, "the worker says what it runs"
    client.rename("no queue of anybody", held)
    worker.kill_group()
    commit("ready")
    commit("urgent", priority=9)
    commit("elsewhere", queue="unknown to the app")
    commit("delayed", countdown=3600)
    commit("quoted", task_id='an "id\\ü')
    assert found(reconcile()) == {"there": 7}
    client.delete("celery", "celery\x06\x169")
    assert found(reconcile(dry_run=True)) == {"there": 4, "lost": 3}


def test_what_was_begun_and_left_no_trace_is_unknown_and_left_alone(broker: Broker) -> None:
    commit("x")
    row = OutboxMessage.objects.get()
    broker.client.delete("celery")
    reconciling._Look()._leases.acquire(lease_of(row.name), "a nonce", 60)
    with pytest.raises(SystemExit, match="1"):
        command()
    assert found(reconcile()) == {"unknown": 1}
    assert not waiting().exists()


def test_of_what_was_due_long_ago_no_trace_proves_nothing(broker: Broker) -> None:
    """Its start would be forgotten by now; what was sent long ago, and is due only later, cannot have started."""
    ids = [commit("old"), commit("later", countdown=3600)]
    broker.client.flushall()
    OutboxMessage.objects.update(sent_at=timezone.now() - timedelta(days=2))
    first = OutboxMessage.objects.get(task_id=ids[0])
    OutboxMessage.objects.filter(pk=first.pk).update(kept_until=first.kept_until - timedelta(days=2))
    preview = command("--dry-run")
    assert {item["task_id"]: item["found"] for item in preview["items"]} == {ids[0]: "unknown", ids[1]: "lost"}
    assert command("--old")["sent_again"] == 2


def test_ends_that_others_know_of_count(broker: Broker) -> None:
    """A result in Redis, a result in the database, a dead letter: without any note of the worker's."""
    from django_celery_results.models import TaskResult

    ids = [commit("a"), commit("b"), commit("c")]
    broker.client.delete("celery")
    TaskResult.objects.create(task_id=ids[0], status="SUCCESS")
    TaskResult.objects.create(task_id=ids[1], status="STARTED")
    DeadLetter.objects.create(
        task_id=ids[2], task="x", key="1", verdict="failed", reason="failed", payload="", died_at=timezone.now()
    )
    report = reconcile()
    assert found(report) == {"ended": 2, "lost": 1}
    assert [row.task_id for row in waiting()] == [ids[1]]


def test_rows_go_when_their_time_is_over(settings: Any) -> None:
    with transaction.atomic():
        add.delay(1, 1)
        add.apply_async((1, 1), countdown=86400 * 30)
    assert services.prune() == 0
    soon, late = OutboxMessage.objects.order_by("pk")
    assert timedelta(days=6) < soon.kept_until - timezone.now() < timedelta(days=8)
    assert late.kept_until - timezone.now() > timedelta(days=36)
    OutboxMessage.objects.filter(pk=soon.pk).update(kept_until=timezone.now())
    assert services.prune() == 1
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX_SENT_DAYS": 0}
    with transaction.atomic():
        add.delay(1, 1)
    assert OutboxMessage.objects.get().pk == late.pk


def test_a_broker_that_cannot_be_looked_into_is_refused(settings: Any) -> None:
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "TRANSPORT": "stock"}
    with pytest.raises(ConfigurationError, match=r"ORCHESTRATOR\['TRANSPORT'\]"):
        reconcile()
    with pytest.raises(CommandError, match="can be looked into"):
        command()


def test_the_admin_reconciles_what_somebody_chose_if_he_may(client: Client, broker: Broker) -> None:
    first, second = commit("a"), commit("b")
    broker.client.delete("celery")
    row = OutboxMessage.objects.get(task_id=first)
    page = reverse("admin:orchestrator_outbox_outboxmessage_changelist")
    order = {"action": "reconcile", "_selected_action": [row.pk]}
    person("looker", "orchestrator_outbox.view_outboxmessage")
    client.login(username="looker", password=PASSWORD)
    client.post(page, order)
    assert not waiting().exists()
    boss = person("boss", "orchestrator_outbox.view_outboxmessage", "orchestrator_outbox.reconcile_outboxmessage")
    client.login(username="boss", password=PASSWORD)
    shown = client.post(page, order, follow=True).content.decode()
    assert "1 were lost and are sent again" in shown.replace("1 was", "1 were")
    assert AuditEntry.objects.get(action="outbox.reconcile").user == boss
    assert sweep.sweep() == 1
    assert queued(broker) == [first]
    assert second in client.get(page, {"state": "sent"}).content.decode()
    assert second not in client.get(page, {"state": "waiting"}).content.decode()
