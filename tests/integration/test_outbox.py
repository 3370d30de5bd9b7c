"""What a transaction publishes is sent if, and only if, it commits; whatever dies or is away."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import redis
from celery import chain, chord, group
from django.db import DatabaseError, connection, transaction
from django.test import Client, TestCase
from django.urls import reverse
from django.utils import timezone

from orchestrator.celery import get_app
from orchestrator.contracts import codec
from orchestrator.contracts.errors import BrokerUnavailable, InvalidOption, UnknownOption
from orchestrator.contracts.message import WireMessage
from orchestrator.outbox import sending, services, sweep
from orchestrator.outbox.models import OutboxMessage
from orchestrator.transport import sender
from tests.support.broker import Broker
from tests.support.outbox import due_now, waiting
from tests.support.people import PASSWORD, person
from tests.support.wait import eventually
from tests.support.zoo import add, collect, follow, secretive

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def empty_broker(broker: Broker) -> Iterator[Broker]:
    """An empty broker, and no memory of one that did not answer."""
    sending.rest(0)
    yield broker
    sending.rest(0)
    if not broker.pid:
        broker.start()


def queued(broker: Broker, queue: str = "celery") -> list[dict[str, Any]]:
    """Return the messages on a queue, oldest first."""
    return [json.loads(raw) for raw in reversed(broker.client.lrange(queue, 0, -1))]


def ids(broker: Broker, queue: str = "celery") -> list[str]:
    return [message["headers"]["id"] for message in queued(broker, queue)]


def left_behind(count: int = 1) -> list[str]:
    """Publish as a process does that dies right after its commit; return the ids."""
    with transaction.atomic():
        sent = [add.delay(number, 1).id for number in range(count)]
        connection.run_on_commit = []
    return sent


# --- in a transaction --------------------------------------------------------------------


def test_a_message_is_sent_when_its_transaction_commits(broker: Broker) -> None:
    with transaction.atomic():
        result = add.delay(1, 2)
        assert queued(broker) == []
        row = OutboxMessage.objects.get()
        assert (row.task, row.task_id, row.queue) == (add.name, result.id, "celery")
    (message,) = queued(broker)
    assert message["headers"]["id"] == message["properties"]["correlation_id"] == result.id
    assert message["headers"]["orchestrator"]["outbox"]["row"] == row.name
    assert not waiting().exists()


def test_what_is_rolled_back_is_never_sent(broker: Broker) -> None:
    with pytest.raises(LookupError), transaction.atomic():
        add.delay(1, 2)
        raise LookupError
    assert sweep.sweep() == 0
    assert queued(broker) == []
    assert not waiting().exists()


def test_a_savepoint_that_is_rolled_back_takes_only_its_own_messages(broker: Broker) -> None:
    with transaction.atomic():
        first = add.delay(1, 1)
        with pytest.raises(LookupError), transaction.atomic():
            add.delay(2, 2)
            raise LookupError
        with transaction.atomic():
            second = add.delay(3, 3)
        third = add.delay(4, 4)
    assert ids(broker) == [first.id, second.id, third.id]
    assert not waiting().exists()


def test_one_transaction_is_sent_in_order_and_forgotten_in_one_statement(
    broker: Broker, django_assert_max_num_queries: Any
) -> None:
    # BEGIN and COMMIT (which Django counts), seven rows, one DELETE.
    with django_assert_max_num_queries(10), transaction.atomic():
        sent = [add.delay(number, 1).id for number in range(7)]
    assert ids(broker) == sent
    assert not waiting().exists()


def test_the_message_is_celerys_own(broker: Broker) -> None:
    """Byte for byte what is sent without a transaction, but for what differs between two calls."""
    options: dict[str, Any] = {"countdown": 0.5, "expires": 600, "priority": 0, "headers": {"shop": "7"}, "queue": "x"}
    secretive.apply_async((1, "4242424242424242"), {"person": "ann"}, task_id="a", **options)
    with transaction.atomic():
        secretive.apply_async((1, "4242424242424242"), {"person": "ann"}, task_id="b", **options)
    plain, kept = queued(broker, "x")
    assert plain["body"] == kept["body"]
    for message in (plain, kept):
        for name in ("id", "root_id", "eta", "expires", "orchestrator"):
            assert message["headers"].pop(name)
        for name in ("correlation_id", "delivery_tag"):
            assert message["properties"].pop(name)
    assert plain == kept


def test_every_way_to_publish_waits_for_the_commit(broker: Broker) -> None:
    with transaction.atomic():
        add.apply_async((1, 2), countdown=0.5)
        get_app().send_task("tests.support.zoo.add", (1, 2))
        get_app().send_task("somewhere.else", (1, 2), queue="other")
        chain(add.s(1, 2), add.s(3)).delay()
        group(add.s(1, 2), add.s(3, 4)).apply_async()
        chord([add.s(1, 2), add.s(3, 4)], collect.s())()
        add.apply_async_on_commit((5, 5))
        assert queued(broker) == queued(broker, "other") == []
        assert waiting().count() == 9
    assert len(queued(broker)) == 8
    assert len(queued(broker, "other")) == 1


def test_the_event_is_sent_with_the_message_and_not_before(broker: Broker) -> None:
    with broker.client.pubsub(ignore_subscribe_messages=True) as events:
        events.psubscribe("*celeryev/task.sent")
        with pytest.raises(LookupError), transaction.atomic():
            add.delay(1, 2)
            raise LookupError
        with transaction.atomic():
            sent = add.delay(1, 2)
        heard = eventually(lambda: events.get_message(timeout=1))
    assert json.loads(base64.b64decode(json.loads(heard["data"])["body"]))["uuid"] == sent.id


# --- the caller's word -------------------------------------------------------------------


def test_a_caller_may_send_at_once(broker: Broker) -> None:
    with pytest.raises(LookupError), transaction.atomic():
        sent = add.apply_async((1, 2), outbox=False)
        raise LookupError
    assert ids(broker) == [sent.id]
    assert "outbox" not in queued(broker)[0]["properties"]


def test_a_caller_may_have_it_kept_first_without_a_transaction(broker: Broker) -> None:
    broker.stop()
    add.apply_async((1, 2), outbox=True)
    assert waiting().count() == 1
    broker.start()
    assert sweep.sweep() == 1
    assert len(queued(broker)) == 1


def test_an_outbox_that_is_not_there_is_refused(settings: Any) -> None:
    with pytest.raises(UnknownOption, match=r"'defualt'.*did you mean 'default'"):
        add.apply_async((1, 2), outbox="defualt")
    with pytest.raises(InvalidOption, match="outbox=7"):
        add.apply_async((1, 2), outbox=7)
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX": False, "OUTBOX_FALLBACK": False}
    with pytest.raises(InvalidOption, match=r"this project has no outbox.*ORCHESTRATOR\['OUTBOX'\]"):
        add.apply_async((1, 2), outbox=True)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(UnknownOption, match=r"'outbx'.*did you mean 'outbox'"):
        add.apply_async((1, 2), outbx=False)


def test_what_json_cannot_hold_fails_the_caller_not_the_relay() -> None:
    with pytest.raises(Exception, match="not JSON serializable"), transaction.atomic():
        add.delay(object(), 2)
    with pytest.raises(InvalidOption, match="the outbox holds JSON only"), transaction.atomic():
        add.apply_async((1, 2), serializer="yaml")
    with pytest.raises(InvalidOption, match=r"'thing' of .* is a object"), transaction.atomic():
        add.apply_async((1, 2), thing=object())
    assert not waiting().exists()


def test_without_an_outbox_everything_is_as_in_celery(broker: Broker, settings: Any) -> None:
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX": False, "OUTBOX_FALLBACK": False}
    with pytest.raises(LookupError), transaction.atomic():
        add.delay(1, 2)
        raise LookupError
    assert len(queued(broker)) == 1
    broker.stop()
    with pytest.raises(Exception, match="The broker did not take"):
        add.delay(1, 2)


def test_a_transaction_by_hand_is_swept(broker: Broker) -> None:
    """Autocommit switched off: nobody tells when it commits."""
    transaction.set_autocommit(False)
    try:
        add.delay(1, 2)
        transaction.rollback()
        sent = add.delay(3, 4)
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert queued(broker) == []
    due_now()
    assert sweep.sweep() == 1
    assert ids(broker) == [sent.id]


# --- the broker is away ------------------------------------------------------------------


def test_without_a_broker_the_caller_neither_fails_nor_hangs(broker: Broker) -> None:
    broker.stop()
    begun = time.monotonic()
    with transaction.atomic():
        sent = [add.delay(number, 1).id for number in range(20)]
    sent.append(add.delay(20, 1).id)
    sent += [group(add.s(21, 1)).apply_async().results[0].id]
    assert time.monotonic() - begun < 5, "one try, not one each"
    lag = services.lag()
    assert lag.waiting == 22
    assert 0 <= lag.oldest_seconds < 60
    with pytest.raises(BrokerUnavailable, match="Is it running"):
        sweep.sweep()
    broker.start()
    assert sweep.sweep() == 22
    assert ids(broker) == sent
    assert services.lag() == services.Lag(0, 0.0)


def test_a_frozen_broker_holds_a_caller_once(broker: Broker) -> None:
    add.delay(1, 1)
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with transaction.atomic():
            add.delay(2, 1)
        first = time.monotonic() - begun
        begun = time.monotonic()
        with transaction.atomic():
            add.delay(3, 1)
        add.delay(4, 1)
        second = time.monotonic() - begun
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert first < 12
    assert second < 1
    assert sweep.sweep() == 3


@pytest.mark.parametrize("dies", [False, True], ids=["it took it", "it never did"])
@pytest.mark.parametrize("options", [{}, {"headers": {"x": 1}}, {"countdown": 60}], ids=["quick", "ordinary", "later"])
def test_the_fallback_sends_once_what_a_silent_broker_may_have_taken(
    broker: Broker, dies: bool, options: dict[str, Any]
) -> None:
    """The call lies in the buffer of a server that hangs: it is carried out when that goes on, or dies with it."""
    # So that there is a connection: to connect would fail, too, but leave no doubt.
    add.apply_async((0, 0), **options)
    broker.client.flushall()
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        sent = add.apply_async((1, 1), **options)
        row = waiting().get()
        assert row.task_id == sent.id
        assert row.doubt
    finally:
        if dies:
            broker.kill()
            broker.start()
        else:
            os.kill(broker.pid, signal.SIGCONT)
    # Relays are other processes, and do not know of this one's doubts.
    sender._unanswered.clear()
    assert eventually(sweep.sweep) == 1
    assert len(queued(broker)) + broker.client.zcard("orchestrator:delayed") == 1
    assert not waiting().exists()


@pytest.mark.parametrize("options", [{}, {"headers": {"x": 1}}, {"countdown": 60}], ids=["quick", "ordinary", "later"])
def test_the_fallback_sends_nothing_twice_whose_answer_was_lost_with_its_connection(
    broker: Broker, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has carried the call out; its connection is cut before the answer is read."""
    send, lost = redis.connection.Connection.send_packed_command, []

    def send_and_cut(self: Any, command: Any, **checks: Any) -> None:
        send(self, command, **checks)
        if any(b"EVAL" in part for part in command):
            lost.append(self._sock.recv(4096))
            self._sock.shutdown(socket.SHUT_RDWR)

    add.apply_async((0, 0), **options)
    broker.client.flushall()
    with monkeypatch.context() as patch:
        patch.setattr(redis.connection.Connection, "send_packed_command", send_and_cut)
        sent = add.apply_async((1, 1), **options)
    assert lost
    row = waiting().get()
    assert row.task_id == sent.id
    assert row.doubt
    # Relays are other processes, and do not know of this one's doubts.
    sender._unanswered.clear()
    assert eventually(sweep.sweep) == 1
    assert len(queued(broker)) + broker.client.zcard("orchestrator:delayed") == 1
    assert not waiting().exists()


def test_a_publish_outside_of_a_transaction_fails_where_no_fallback_is_wanted(broker: Broker, settings: Any) -> None:
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX_FALLBACK": False}
    broker.stop()
    with pytest.raises(Exception, match="The broker did not take"):
        add.delay(1, 2)
    with transaction.atomic():
        add.delay(1, 2)
    assert waiting().count() == 1


def test_an_event_loop_gets_the_brokers_own_error(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """There no row may be written; what is told is why it would have been."""

    async def view() -> None:
        add.delay(1, 2)

    broker.stop()
    # The browser tests leave an event loop in this thread, and a permission to ignore it.
    with monkeypatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.delenv("DJANGO_ALLOW_ASYNC_UNSAFE", raising=False)
        for _ in range(2):
            with pytest.raises(Exception, match="The broker did not take"):
                pool.submit(asyncio.run, view()).result(60)
    assert not waiting().exists()


# --- relays ------------------------------------------------------------------------------


def test_a_relay_sends_what_a_dead_process_left_once_its_grace_is_over(broker: Broker) -> None:
    sent = left_behind(3)
    assert sweep.sweep() == 0
    due_now()
    assert sweep.sweep() == 3
    assert ids(broker) == sent
    assert not waiting().exists()


def test_what_one_relay_has_no_other_takes_until_its_lease_is_over(broker: Broker) -> None:
    left_behind(3)
    due_now()
    assert len(sweep._take("default", 2)) == 2
    assert sweep.sweep() == 1
    waiting().update(due_at=timezone.now())
    assert sweep.sweep() == 2
    assert len(queued(broker)) == 3


def test_a_row_that_cannot_be_sent_stays_and_holds_up_no_other(broker: Broker) -> None:
    left_behind(3)
    bad, *_ = OutboxMessage.objects.all()
    OutboxMessage.objects.filter(pk=bad.pk).update(payload="rot13:abc")
    due_now()
    assert sweep.sweep() == 2
    row = waiting().get()
    assert row.pk == bad.pk
    assert "rot13" in row.error
    assert row.due_at > timezone.now()
    message = WireMessage(b"[[],{},{}]", "application/json", "utf-8", {}, {}, routing_key="celery")
    waiting().update(payload=codec.seal(message))
    due_now()
    assert sweep.sweep() == 1


def test_rows_left_from_before_the_outbox_was_switched_off_are_sent(broker: Broker, settings: Any) -> None:
    left_behind()
    due_now()
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX": False, "OUTBOX_FALLBACK": False}
    assert sweep.sweep() == 1


def test_a_database_that_goes_after_the_commit_does_not_fail_the_caller(broker: Broker) -> None:
    """The message is sent; its row stays and is sent again, and a worker drops the copy."""

    def refuse_writes(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("DELETE", "UPDATE")):
            raise DatabaseError("gone")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(refuse_writes), transaction.atomic():
        add.delay(1, 2)
    due_now()
    assert sweep.sweep() == 1
    first, second = queued(broker)
    one, other = (message["headers"].pop("orchestrator")["outbox"] for message in (first, second))
    assert one["row"] == other["row"]
    assert one["nonce"] != other["nonce"]
    assert first["headers"] == second["headers"]


class InATestCase(TestCase):
    """Django's own way to test what happens on commit."""

    def test_callbacks_are_captured_and_run(self) -> None:
        from tests.support import environment

        broker = environment.world().broker
        before = add.delay(0, 0)
        with self.captureOnCommitCallbacks() as callbacks:
            add.delay(1, 2)
        assert len(callbacks) == 1
        assert ids(broker) == []
        with self.captureOnCommitCallbacks(execute=True):
            sent = add.delay(3, 4)
            also = add.delay(5, 6)
        assert ids(broker) == [sent.id, also.id]
        left = set(waiting().values_list("task_id", flat=True))
        assert before.id in left
        assert not left & {sent.id, also.id}


# --- pages -------------------------------------------------------------------------------


def test_the_admin_shows_arguments_to_those_who_may_see_them(client: Client) -> None:
    with transaction.atomic():
        follow.delay("a-value", "k")
        secretive.delay(1, "4242424242424242")
        connection.run_on_commit = []
    row = OutboxMessage.objects.get(task=secretive.name)
    page = reverse("admin:orchestrator_outbox_outboxmessage_change", args=[row.pk])
    person("viewer", "orchestrator_outbox.view_outboxmessage")
    client.login(username="viewer", password=PASSWORD)
    listed = client.get(reverse("admin:orchestrator_outbox_outboxmessage_changelist")).content.decode()
    assert row.task_id in listed
    assert "a-value" not in listed
    shown = client.get(page).content.decode()
    assert "42424242" not in shown
    assert client.post(page, {"error": "x"}).status_code == 403
    person("seer", "orchestrator_outbox.view_outboxmessage", "orchestrator_deadletters.view_payload")
    client.login(username="seer", password=PASSWORD)
    assert "4242424242424242" in client.get(page).content.decode()
    person("nobody")
    client.login(username="nobody", password=PASSWORD)
    assert client.get(page).status_code == 403


def test_a_message_that_waits_long_degrades_the_health(broker: Broker) -> None:
    from orchestrator.monitoring.report import report

    left_behind()
    only = frozenset({"outbox"})
    assert report(only).verdict == 0
    OutboxMessage.objects.update(created_at=timezone.now() - timedelta(minutes=5))
    found = report(only)
    assert found.verdict == 1
    assert "1 committed messages wait" in found.results[0].remark
    assert found.as_json()["outbox"]["waiting"] == 1
    assert found.as_json()["outbox"]["oldest_seconds"] >= 300
