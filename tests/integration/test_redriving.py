"""The verbs on dead letters: what they publish, what they refuse, and that each happens once."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from orchestrator.audit.models import AuditEntry
from orchestrator.celery import get_app
from orchestrator.contracts import codec, events
from orchestrator.contracts.errors import (
    AlreadyClosed,
    BrokerUnavailable,
    InvalidOption,
    PayloadIncompatible,
    PayloadUnreadable,
    TaskMissing,
)
from orchestrator.contracts.message import WireMessage
from orchestrator.deadletters import redriving, services
from orchestrator.deadletters.filing import file_of
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.plans import plan_of
from orchestrator.deadletters.services import Filter
from tests.support.broker import Broker
from tests.support.letters import dead_letter

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

SECRETIVE = "tests.support.zoo.secretive"


@pytest.fixture(autouse=True)
def empty_broker(broker: Broker) -> Broker:
    return broker


@pytest.fixture
def person() -> Any:
    return get_user_model().objects.create_user("ann")


@pytest.fixture
def seen() -> Iterator[list[object]]:
    said: list[object] = []
    kinds = (events.LetterRedriven, events.LetterDiscarded)
    for kind in kinds:
        events.subscribe(kind, said.append)
    yield said
    for kind in kinds:
        events._subscribers[kind].remove(said.append)


def published(broker: Broker, queue: str = "celery") -> list[dict[str, Any]]:
    """Return what lies on a queue, oldest first."""
    return [json.loads(raw) for raw in reversed(broker.client.lrange(queue, 0, -1))]


def again(row: DeadLetter) -> DeadLetter:
    row.refresh_from_db()
    return row


def half_done(row: DeadLetter, *, args: list[Any] | None = None, minutes: float = 5) -> str:
    """Leave a letter as a process does that dies after its claim, so long ago; return the new id."""
    redriving._claim(row, plan_of(row, args, None), by=None, actor="", audited=True)
    DeadLetter.objects.filter(pk=row.pk).update(claimed_at=timezone.now() - timedelta(minutes=minutes))
    return row.redriven_as


# --- redrive ---------------------------------------------------------------------------


def test_a_redrive_publishes_the_message_and_closes_the_letter(broker: Broker, person: Any, seen: list[object]) -> None:
    row = dead_letter("succeed", queue="mail")
    new_id = services.redrive(row.pk, by=person)
    (message,) = published(broker, "mail")
    assert message["headers"]["id"] == message["properties"]["correlation_id"] == new_id != row.task_id
    assert message["headers"]["orchestrator"]["redrive_of"] == row.task_id
    assert message["headers"]["orchestrator"]["redrive"]["letter"] == str(row.pk)
    again(row)
    assert (row.state, row.redriven_as, row.closed_by) == (State.REDRIVEN, new_id, person)
    assert row.closed_at is not None
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.user, entry.actor, entry.target) == ("deadletter.redrive", person, "ann", str(row.pk))
    assert (entry.details["task_id"], entry.details["new_task_id"]) == (row.task_id, new_id)
    assert seen == [events.LetterRedriven(letter_id=str(row.pk), task=row.task, new_task_id=new_id)]


def test_an_actor_without_a_user_is_named(broker: Broker) -> None:
    services.redrive(dead_letter("succeed").pk, actor="nightly job")
    assert AuditEntry.objects.get().actor == "nightly job"


def test_a_closed_letter_says_what_became_of_it(broker: Broker, person: Any) -> None:
    row = dead_letter("succeed")
    new_id = services.redrive(row.pk, by=person)
    with pytest.raises(AlreadyClosed, match=f"already redriven by ann at .* as task {new_id}"):
        services.redrive(row.pk)
    with pytest.raises(AlreadyClosed, match=new_id):
        services.discard(row.pk, reason="too late")
    other = dead_letter("succeed")
    services.discard(other.pk, reason="a test order", by=person)
    with pytest.raises(AlreadyClosed, match=r"discarded by ann at .*: a test order"):
        services.redrive(other.pk)
    third = dead_letter("succeed")
    half = half_done(third)
    with pytest.raises(AlreadyClosed, match=f"is being redriven as task {half}"):
        services.redrive(third.pk)
    assert len(published(broker)) == 1


@pytest.mark.parametrize("letter_id", ["no-id", "", "00000000-0000-0000-0000-000000000000", 7])
def test_an_unknown_letter_is_said(letter_id: Any) -> None:
    with pytest.raises(DeadLetter.DoesNotExist, match=f"There is no dead letter {letter_id}"):
        services.redrive(letter_id)


def test_an_unknown_task_changes_nothing(broker: Broker) -> None:
    for task, says in (("shop.gone", "'shop.gone', which is not registered.*INSTALLED_APPS"), ("", "names no task")):
        row = dead_letter("succeed", task=task)
        with pytest.raises(TaskMissing, match=says):
            services.redrive(row.pk)
        assert again(row).state == State.OPEN
    assert not AuditEntry.objects.exists()


def test_arguments_that_no_longer_fit_change_nothing(broker: Broker) -> None:
    row = dead_letter(1, 2, 3, task="tests.support.zoo.add")
    with pytest.raises(PayloadIncompatible, match=r"do not fit tests\.support\.zoo\.add\(x"):
        services.redrive(row.pk)
    assert again(row).state == State.OPEN
    services.redrive(row.pk, args=[1, 2])
    assert json.loads(again(row).message.body)[0] == [1, 2, 3], "the letter keeps the message as it died"


def test_edited_arguments_are_sent_and_their_difference_kept_redacted(broker: Broker) -> None:
    row = dead_letter(7, "4242424242424242", task=SECRETIVE)
    services.redrive(row.pk, args=[8, "5555555555554444"], kwargs={"fail": False})
    again(row)
    assert "42424242" not in json.dumps(row.edits)
    assert "55555555" not in json.dumps(row.edits)
    assert "7" in row.edits["args"][0]
    assert "8" in row.edits["args"][1]
    assert "fail" in row.edits["kwargs"][1]
    assert row.edited_payload == "", "kept only until the redrive is certain"
    assert AuditEntry.objects.get().details["edited"] is True
    (message,) = published(broker)
    assert "55555555" not in json.dumps(message["headers"])


def test_arguments_given_as_they_were_are_no_edit(broker: Broker) -> None:
    row = dead_letter("succeed")
    services.redrive(row.pk, args=["succeed"], kwargs={})
    assert again(row).edits is None


def test_a_message_that_cannot_be_decoded_goes_byte_for_byte_or_not_at_all(broker: Broker) -> None:
    row = dead_letter("succeed")
    message = row.message
    broken = WireMessage(
        b"\x80\x04K\x01.", "application/x-python-serialize", "binary", message.headers, {}, routing_key="celery"
    )
    DeadLetter.objects.filter(pk=row.pk).update(payload=codec.seal(broken))
    with pytest.raises(PayloadUnreadable, match=r"cannot be decoded.*byte for byte"):
        services.redrive(row.pk, args=["other"])
    assert again(row).state == State.OPEN
    services.redrive(row.pk)
    (sent,) = published(broker)
    assert sent["content-type"] == "application/x-python-serialize"
    assert base64.b64decode(sent["body"]) == broken.body
    assert again(row).state == State.REDRIVEN


def test_a_letter_that_was_never_a_message_cannot_be_redriven(broker: Broker) -> None:
    row = file_of("1-0", b"not a letter")
    row.save()
    with pytest.raises(PayloadUnreadable, match=r"not a message.*discard"):
        services.redrive(row.pk)
    assert again(row).state == State.OPEN


def test_a_payload_of_an_unknown_codec_is_said(broker: Broker) -> None:
    row = dead_letter("succeed", payload="rot13:abc")
    with pytest.raises(PayloadUnreadable, match="'rot13', which this release does not know"):
        services.redrive(row.pk)


def test_a_missing_broker_is_said_and_leaves_the_letter_open(broker: Broker, person: Any) -> None:
    row = dead_letter("succeed")
    services.redrive(dead_letter("succeed").pk)  # the pool holds a connection that is about to go stale
    broker.stop()
    try:
        with pytest.raises(BrokerUnavailable, match=r"Is it running.*CELERY_BROKER_URL"):
            services.redrive(row.pk, by=person)
    finally:
        broker.start()
    again(row)
    assert (row.state, row.redriven_as, row.closed_by, row.claimed_at) == (State.OPEN, "", None, None)
    assert AuditEntry.objects.filter(action="deadletter.redrive_failed", target=str(row.pk), user=person).exists()
    services.redrive(row.pk)
    assert again(row).state == State.REDRIVEN


def test_a_broker_that_refuses_leaves_the_letter_open(broker: Broker) -> None:
    row = dead_letter("succeed")
    broker.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            services.redrive(row.pk)
    finally:
        broker.client.config_set("maxmemory", 0)
    assert again(row).state == State.OPEN


def test_inside_a_transaction_a_redrive_is_refused(broker: Broker) -> None:
    row = dead_letter("succeed")
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        services.redrive(row.pk)
    assert again(row).state == State.OPEN
    assert published(broker) == []


def test_the_admin_redrives_under_atomic_requests(
    broker: Broker, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    one, other, third = dead_letter("succeed"), dead_letter("succeed"), dead_letter("succeed")
    edited = {"args": '["succeed"]', "kwargs": '{"value": 2}'}
    bulk = {"filter": json.dumps({"ids": [str(third.pk)]}), "expected": "1"}
    admin_client.post(reverse("admin:orchestrator_deadletters_redrive", args=[one.pk]))
    admin_client.post(reverse("admin:orchestrator_deadletters_edit", args=[other.pk]), edited)
    admin_client.post(reverse("admin:orchestrator_deadletters_bulk_redrive"), bulk)
    assert [again(row).state for row in (one, other, third)] == [State.REDRIVEN] * 3


def test_of_many_clicks_at_once_one_publishes(broker: Broker) -> None:
    rows = [dead_letter("succeed") for _ in range(5)]
    barrier = threading.Barrier(4)
    ids: list[str] = []
    refused: list[Exception] = []

    def click(row: DeadLetter) -> None:
        barrier.wait(30)
        try:
            ids.append(services.redrive(row.pk))
        except AlreadyClosed as error:
            refused.append(error)
        finally:
            connection.close()

    for row in rows:
        threads = [threading.Thread(target=click, args=(row,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(ids) == 5
    assert len(refused) == 15
    assert sorted(message["headers"]["id"] for message in published(broker)) == sorted(ids)
    assert AuditEntry.objects.count() == 5


# --- resuming --------------------------------------------------------------------------


def test_a_redrive_that_was_cut_off_goes_on_under_the_same_id(broker: Broker, seen: list[object]) -> None:
    row = dead_letter("succeed")
    new_id = half_done(row)
    assert services.resume_interrupted() == 1
    assert [message["headers"]["id"] for message in published(broker)] == [new_id]
    assert again(row).state == State.REDRIVEN
    assert services.resume_interrupted() == 0
    assert len(seen) == 1


def test_a_redrive_that_was_cut_off_after_sending_is_sent_again_with_another_nonce(broker: Broker) -> None:
    row = dead_letter("succeed")
    new_id = services.redrive(row.pk)
    long_ago = timezone.now() - timedelta(minutes=5)
    DeadLetter.objects.filter(pk=row.pk).update(state=State.REDRIVING, claimed_at=long_ago, closed_at=None)
    assert services.resume_interrupted() == 1
    first, second = published(broker)
    assert first["headers"]["id"] == second["headers"]["id"] == new_id
    marks = [message["headers"]["orchestrator"]["redrive"] for message in (first, second)]
    assert marks[0]["letter"] == marks[1]["letter"] == str(row.pk)
    assert marks[0]["nonce"] != marks[1]["nonce"]


def test_a_resumed_redrive_sends_the_edited_arguments(broker: Broker) -> None:
    row = dead_letter(1, 2, task="tests.support.zoo.add")
    half_done(row, args=[3, 4])
    assert services.resume_interrupted() == 1
    (message,) = published(broker)
    assert message["headers"]["argsrepr"] == "(3, 4)"
    again(row)
    assert (row.state, row.edited_payload) == (State.REDRIVEN, "")


def test_a_redrive_under_way_is_left_alone(broker: Broker) -> None:
    half_done(dead_letter("succeed"), minutes=0)
    assert services.resume_interrupted() == 0
    assert published(broker) == []


def test_of_two_relays_one_resumes(broker: Broker) -> None:
    for _ in range(10):
        half_done(dead_letter("succeed"))
    barrier = threading.Barrier(2)

    def resume() -> None:
        barrier.wait(30)
        services.resume_interrupted()
        connection.close()

    threads = [threading.Thread(target=resume) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(published(broker)) == 10


def test_resuming_waits_for_a_broker_that_is_away(broker: Broker) -> None:
    row = dead_letter("succeed")
    new_id = half_done(row)
    broker.stop()
    try:
        assert services.resume_interrupted() == 0
        again(row)
        assert (row.state, row.redriven_as) == (State.REDRIVING, new_id)
    finally:
        broker.start()
    DeadLetter.objects.update(claimed_at=timezone.now() - timedelta(minutes=5))
    assert services.resume_interrupted() == 1


def test_a_redrive_that_can_never_be_sent_is_open_again(broker: Broker) -> None:
    row = dead_letter("succeed")
    half_done(row)
    DeadLetter.objects.filter(pk=row.pk).update(payload="rot13:abc")
    assert services.resume_interrupted() == 0
    assert again(row).state == State.OPEN
    assert "rot13" in AuditEntry.objects.get(action="deadletter.redrive_failed").details["error"]


# --- discard ---------------------------------------------------------------------------


def test_a_discard_closes_the_letter_with_its_reason(broker: Broker, person: Any, seen: list[object]) -> None:
    row = dead_letter("succeed")
    services.discard(row.pk, reason="  a test order ", by=person)
    again(row)
    assert (row.state, row.note, row.closed_by) == (State.DISCARDED, "a test order", person)
    assert row.closed_at is not None
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.details["reason"], entry.user) == ("deadletter.discard", "a test order", person)
    assert seen == [events.LetterDiscarded(letter_id=str(row.pk), task=row.task)]


def test_a_discard_needs_a_reason(broker: Broker) -> None:
    row = dead_letter("succeed")
    for reason in ("", "  \n"):
        with pytest.raises(InvalidOption, match="Give a reason"):
            services.discard(row.pk, reason=reason)
        with pytest.raises(InvalidOption, match="Give a reason"):
            services.discard_where(Filter(), reason=reason)
    assert again(row).state == State.OPEN


# --- retention -------------------------------------------------------------------------


def test_only_closed_letters_whose_time_is_over_are_deleted(broker: Broker, settings: Any) -> None:
    old, recent = timezone.now() - timedelta(days=100), timezone.now() - timedelta(days=80)
    dead_letter("succeed", state=State.DISCARDED, closed_at=old)
    dead_letter("succeed", state=State.REDRIVEN, closed_at=old)
    kept = {
        dead_letter("succeed", state=State.DISCARDED, closed_at=recent).pk,
        dead_letter("succeed", state=State.OPEN, died_at=old).pk,
        dead_letter("succeed", state=State.REDRIVING, claimed_at=old, died_at=old).pk,
    }
    assert services.prune() == 2
    assert set(DeadLetter.objects.values_list("pk", flat=True)) == kept
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.actor, entry.details["count"]) == ("deadletter.prune", "relay", 2)
    assert services.prune() == 0

    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OPEN_LETTERS_DAYS": 90, "CLOSED_LETTERS_DAYS": None}
    assert services.prune() == 1
    assert not DeadLetter.objects.filter(state=State.OPEN).exists()


def test_a_redrive_is_not_led_astray_by_an_answer_that_nobody_awaits(broker: Broker) -> None:
    """As in Flower, which asks workers on the same pooled connections; only then does the pool's health check act."""
    row = dead_letter("succeed")
    assert get_app().control.inspect(["nobody@test"], timeout=0.2).ping() is None
    with get_app().producer_or_acquire() as producer:
        listening = producer.channel.client.connection
        assert listening is not None, "the question was asked on another connection, so this shows nothing"
        listening.next_health_check = 1.0
    new_id = services.redrive(row.pk)
    assert again(row).state == State.REDRIVEN
    assert [message["headers"]["id"] for message in published(broker)] == [new_id]
