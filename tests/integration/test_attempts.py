"""The history of attempts: every one that did not simply succeed has a row, with its worker, times and error."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_celery_results.models import TaskResult

from orchestrator import conf
from orchestrator.contracts.message import Letter, WireMessage
from orchestrator.contracts.outcome import Outcome, Reason, Verdict
from orchestrator.deadletters import services
from orchestrator.deadletters.models import DeadLetter
from orchestrator.runs import retention
from orchestrator.runs.attempts import AttemptDrain
from orchestrator.runs.models import Attempt
from orchestrator.stores.redis.attempts import RedisAttemptLog, attempts_stream
from tests.conftest import Platform
from tests.support.broker import Broker
from tests.support.inbox import filed, person
from tests.support.wait import eventually
from tests.support.zoo import add, end, flaky

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


def test_retries_and_the_end_have_a_row_each_and_successes_none(platform: Platform) -> None:
    """Two retries and a failure: three rows with what happened, linked from the letter and the result."""
    platform.relay()
    platform.worker(concurrency=2)
    assert add.delay(1, 2).get(timeout=30) == 3
    sent = flaky.delay("b")
    letter = eventually(lambda: DeadLetter.objects.filter(task_id=sent.id).first())
    eventually(lambda: Attempt.objects.count() == 3)
    found = list(Attempt.objects.order_by("retries"))
    assert [(row.verdict, row.retries, row.task_id) for row in found] == [
        ("retried", 0, sent.id),
        ("retried", 1, sent.id),
        ("failed", 2, sent.id),
    ]
    last = found[-1]
    assert (last.error_type, last.reason) == (letter.error_type, letter.reason)
    assert last.worker.startswith("worker")
    assert last.published_at is not None
    assert last.started_at is not None
    assert last.published_at <= last.started_at <= last.ended_at + timedelta(seconds=0.01)
    client = Client()
    client.force_login(person("admin"))
    history = f"{reverse('admin:orchestrator_runs_attempt_changelist')}?q={sent.id}"
    page = reverse("admin:orchestrator_deadletters_deadletter_change", args=[letter.pk])
    assert history in client.get(page).content.decode()
    assert client.get(history).content.decode().count('class="field-how"') == 3
    result = eventually(lambda: TaskResult.objects.filter(task_id=sent.id).first())
    page = reverse("admin:django_celery_results_taskresult_change", args=[result.pk])
    assert history in client.get(page).content.decode()
    page = reverse("admin:orchestrator_runs_attempt_change", args=[last.pk])
    assert last.error_type in client.get(page).content.decode()


def test_a_deferral_is_noted(platform: Platform) -> None:
    """It counts no retry, and still one can see that it was put off."""
    platform.relay()
    platform.worker()
    end.delay("defer", key="d")
    eventually(lambda: Attempt.objects.filter(verdict="deferred", retries=0).exists())


def test_a_note_that_comes_twice_is_one_row_and_one_that_cannot_be_read_is_dropped(broker: Broker) -> None:
    """A relay died between writing and forgetting."""
    settings = conf.settings()
    stream = attempts_stream(conf.state_url(), settings.key_prefix, 2.0)
    note = {"v": 1, "attempt_id": "a", "task": "t", "task_id": "i", "verdict": "retried", "ended_at": 1.0}
    note |= {"published_at": None, "started_at": None, "error_message": "nul \0"}
    stream.append(json.dumps(note).encode(), json.dumps(note).encode(), b"{", json.dumps({**note, "v": 2}).encode())
    drain = AttemptDrain()
    assert drain() == 4
    assert stream.size() == 0
    assert Attempt.objects.get().error_message == r"nul \x00"


def test_notes_wait_for_redis_and_hold_nothing_up(broker: Broker) -> None:
    """They are no reason to keep a message; once Redis is back they arrive."""
    log = RedisAttemptLog(conf.state_url(), conf.settings().key_prefix, 0.5)
    message = WireMessage(b"", "application/json", "utf-8", {}, {})
    letter = Letter("a", Verdict.RETRIED, Reason.FAILED, "t", "i", message, died_at=1.0)
    broker.stop()
    try:
        log.note(letter, Outcome(Verdict.RETRIED), None)
        assert log.flush()
    finally:
        broker.start()
    drain = AttemptDrain()
    eventually(lambda: log.flush() and drain())
    assert Attempt.objects.get().verdict == "retried"


def test_failures_are_kept_until_their_letter_is_closed(broker: Broker) -> None:
    """Then they go with the successes of their age."""
    letter = filed()
    old = timezone.now() - timedelta(days=31)
    for task_id, status in ((letter.task_id, "FAILURE"), ("good", "SUCCESS")):
        TaskResult.objects.create(task_id=task_id, status=status)
    Attempt.objects.create(attempt_id="a", task="t", task_id="i", verdict="retried", ended_at=old)
    TaskResult.objects.update(date_done=old)
    assert retention.prune(services.open_among) == 2
    assert TaskResult.objects.get().task_id == letter.task_id
    services.discard(letter.pk, reason="paid by hand")
    assert retention.prune(services.open_among) == 1
    assert not TaskResult.objects.exists()


def test_the_newest_successes_of_each_task_are_kept(broker: Broker, settings: object) -> None:
    """Of a busy task no more than of a rare one; failures do not count."""
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "RESULTS_PER_TASK": 3}  # type: ignore[attr-defined]
    for number in range(10):
        TaskResult.objects.create(task_id=f"busy-{number}", task_name="shop.busy", status="SUCCESS")
        TaskResult.objects.create(task_id=f"bad-{number}", task_name="shop.busy", status="FAILURE")
    TaskResult.objects.create(task_id="rare", task_name="shop.rare", status="SUCCESS")
    assert retention.prune() == 7
    left = TaskResult.objects.filter(status="SUCCESS").values_list("task_id", flat=True)
    assert set(left) == {"busy-7", "busy-8", "busy-9", "rare"}
    assert TaskResult.objects.filter(status="FAILURE").count() == 10
