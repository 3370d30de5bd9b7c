"""Many messages at once are the same messages, come whole or not at all, and wait for a transaction like any other."""

from __future__ import annotations

import json
import os
import signal
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import chain
from django.db import transaction

import orchestrator
from orchestrator.contracts.errors import InvalidOption, MessageTooBig
from orchestrator.engine.bulk import BulkFailed
from orchestrator.testing import published
from tests.conftest import Platform
from tests.seams.test_quick import comparable, ordinary_way
from tests.support import far_side, labour
from tests.support.bodies import body_of
from tests.support.broker import Broker
from tests.support.outbox import waiting
from tests.support.wait import eventually
from tests.support.zoo import add, secretive

pytestmark = pytest.mark.django_db(transaction=True)


def queued(broker: Broker, queue: str = "celery") -> list[dict[str, Any]]:
    """Return what lies in a queue, first published first."""
    return [json.loads(raw) for raw in reversed(broker.client.lrange(queue, 0, -1))]


def ids(broker: Broker, queue: str = "celery") -> list[str]:
    return [message["headers"]["id"] for message in queued(broker, queue)]


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    """Stop the server's process; it accepts connections and answers nothing."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def test_ids_come_in_order_and_only_when_asked_for(broker: Broker) -> None:
    """As one list they would be; each is shaped as a UUID and no two are the same."""
    sent = add.delay_many(((number, 1) for number in range(2500)), batch_size=1000)
    assert (len(sent), len(set(sent))) == (2500, 2500)
    assert ids(broker) == list(sent)
    assert (sent[0], sent[-1], sent[10:12]) == (ids(broker)[0], ids(broker)[-1], ids(broker)[10:12])
    assert [result.id for result in sent.results()] == list(sent)
    assert len(sent[0]) == 36
    with pytest.raises(IndexError):
        sent[2500]


def test_each_message_is_what_delay_would_have_sent(broker: Broker) -> None:
    """Positional and named arguments, options, redaction, a key, a time."""
    options: dict[str, Any] = {"queue": "x", "priority": 0, "idempotency_key": "k"}
    items: list[Any] = [(1, "4242424242424242"), {"order": 2, "card": "4242424242424242"}, [3, "x"]]
    secretive.delay_many(items, **options)
    many = [comparable(raw) for raw in reversed(broker.client.lrange("x", 0, -1))]
    broker.flush()
    for item in items:
        args, kwargs = ((), item) if isinstance(item, dict) else (tuple(item), {})
        secretive.apply_async(args, kwargs, **options)
    single = [comparable(raw) for raw in reversed(broker.client.lrange("x", 0, -1))]
    for message in (*many, *single):
        for name in ("id", "root_id"):
            message["headers"].pop(name)
        message["properties"].pop("correlation_id")
    assert many == single
    assert "4242424242424242" not in json.dumps([message["headers"] for message in many])
    add.delay_many([(1, 2)] * 3, countdown=600)
    assert broker.client.zcard("orchestrator:delayed") == 3


def test_signatures_of_all_kinds_go_in_their_order(broker: Broker) -> None:
    """Plain ones in batches; a chain, a message for somebody's own way and one with an id of its own among them."""
    mixed = [add.s(1, 1), chain(add.s(1, 2), add.s(3)), add.s(4, 4).set(task_id="mine"), add.s(5, 5).set(link=add.s(1))]
    sent = orchestrator.bulk([*mixed, add.s(6, 6).set(queue="other"), add.s(7, 7)])
    assert len(sent) == 6
    assert sent[2] == "mine"
    assert [json.loads(body_of(message))[0] for message in queued(broker)] == [[1, 1], [1, 2], [4, 4], [5, 5], [7, 7]]
    assert [ids(broker)[0], *ids(broker)[2:4]] == [sent[0], *sent[2:4]]
    assert ids(broker, "other") == [sent[4]]
    with ordinary_way():
        assert ids(broker)[-1] == sent[5]
        again = orchestrator.bulk(add.s(number, 1) for number in range(3))
    assert ids(broker)[-3:] == list(again)


def test_bulk_runs(platform: Platform) -> None:
    """A worker gets every one of them once."""
    worker = platform.worker(concurrency=2, env=labour.ENV)
    labour.work.delay_many((f"bulk-{number}",) for number in range(300))
    eventually(lambda: len(far_side.effects()) == 600, 60, worker.tail)
    assert all(labour.ends(f"bulk-{number}") == 1 for number in range(0, 300, 37))


def test_a_batch_that_may_have_been_sent_is_told_and_not_sent_twice(broker: Broker) -> None:
    """The batches before it are sent, it is in doubt, the rest was not touched; going on makes it whole."""
    taken: list[int] = []

    def items() -> Iterator[tuple[int, int]]:
        for number in range(50):
            taken.append(number)
            if number == 25:
                os.kill(broker.pid, signal.SIGSTOP)
            yield number, 1

    add.delay(0, 0)
    broker.client.delete("celery")
    try:
        with pytest.raises(BulkFailed) as caught:
            add.delay_many(items(), batch_size=10, outbox=False)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    failed = caught.value
    assert (len(failed.sent), len(failed.unknown), failed.not_sent, len(taken)) == (20, 10, [], 30)
    assert failed.maybe_sent
    sent = failed.resume()
    assert len(sent) == 50
    assert ids(broker) == list(sent)


def test_a_batch_that_was_not_sent_is_told(broker: Broker) -> None:
    """Nobody listens where the broker should be."""
    add.delay(0, 0)
    broker.kill()
    try:
        with pytest.raises(BulkFailed) as caught:
            add.delay_many([(1, 1), (2, 2)], outbox=False)
    finally:
        broker.start()
    assert (len(caught.value.sent), caught.value.unknown, len(caught.value.not_sent)) == (0, [], 2)
    assert not caught.value.maybe_sent
    assert len(caught.value.resume()) == 2


def test_a_transaction_holds_all_of_them(broker: Broker, django_assert_max_num_queries: Any) -> None:
    """Rows in bulk (SQLite takes eighty at a time); sent in few calls after the commit, and gone with a rollback."""
    with pytest.raises(LookupError), transaction.atomic():
        add.delay_many([(1, 1)] * 20)
        raise LookupError
    assert not waiting().exists()
    with django_assert_max_num_queries(30), transaction.atomic():
        sent = add.delay_many(((number, 1) for number in range(900)), batch_size=500)
        later = add.delay_many([(5, 5)] * 2, countdown=600)
        assert queued(broker) == []
        assert waiting().count() == 902
    assert ids(broker) == list(sent)
    assert broker.client.zcard("orchestrator:delayed") == len(later)
    assert not waiting().exists()
    assert all("outbox" in message["headers"]["orchestrator"] for message in queued(broker))


def test_rows_of_a_bulk_wait_for_a_relay_while_the_broker_is_away(broker: Broker) -> None:
    """Nothing is lost between the commit and the broker."""
    from orchestrator.outbox import sending, services

    broker.kill()
    try:
        with transaction.atomic():
            sent = add.delay_many([(number, 1) for number in range(30)])
        assert waiting(claim="").count() == 30
    finally:
        broker.start()
    sending.rest(0)
    assert services.sweep() == 30
    assert ids(broker) == list(sent)


def test_going_on_forgets_nobody_where_messages_go_different_ways(broker: Broker) -> None:
    """A message on Celery's own way fails alone; one that waited behind a batch that failed is not lost."""
    mixed = [add.s(1, 1), add.s(2, 2).set(link=add.s(1)), add.s(3, 3), chain(add.s(4, 4), add.s(1)), add.s(5, 5)]
    add.delay(0, 0)
    broker.kill()
    try:
        with pytest.raises(BulkFailed) as caught:
            orchestrator.bulk(one.set(outbox=False) for one in mixed)
        with pytest.raises(BulkFailed) as again:
            caught.value.resume()
    finally:
        broker.start()
    assert (len(caught.value.sent), len(caught.value.not_sent), len(again.value.not_sent)) == (0, 1, 1)
    assert len(again.value.resume()) == 5
    assert [json.loads(body_of(message))[0] for message in queued(broker)] == [[n, n] for n in range(6)]


@pytest.mark.parametrize("slip", [[1, 2], ["text"], [None]])
def test_what_is_no_arguments_is_refused(broker: Broker, slip: list[Any]) -> None:
    with pytest.raises(InvalidOption, match="tuple of positional arguments"):
        add.delay_many(slip)
    with pytest.raises(InvalidOption, match="give signatures"):
        orchestrator.bulk(slip)
    with pytest.raises(InvalidOption, match="batch_size=0"):
        add.delay_many([(1, 2)], batch_size=0)
    with pytest.raises(TypeError):
        add.delay_many([(1,)])
    with pytest.raises(MessageTooBig):
        add.delay_many([("x" * 2_000_000, 1)])
    assert queued(broker) == []


def test_an_error_of_the_iterable_says_how_far_it_came(broker: Broker) -> None:
    """What was gathered and not sent is not sent behind anybody's back."""

    def items() -> Iterator[tuple[int, int]]:
        for number in range(25):
            yield number, 1
        raise LookupError("row 25")

    with pytest.raises(LookupError) as caught:
        add.delay_many(items(), batch_size=10)
    assert "20 messages were sent before; 5 more" in caught.value.__notes__[0]
    assert len(queued(broker)) == 20


def test_memory_does_not_grow_with_the_number(broker: Broker) -> None:
    """Fifty thousand take no more than five thousand."""

    def peak(count: int) -> int:
        tracemalloc.start()
        add.delay_many((number, 1) for number in range(count))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        broker.client.delete("celery")
        return used

    peak(2000)
    small = peak(3000)
    assert peak(20_000) < small + 1_000_000


def test_the_recorder_of_the_testing_kit_sees_them(broker: Broker) -> None:
    """As single publications, and none is sent."""
    with published() as seen:
        add.delay_many([(1, 1), (2, 2)])
    assert len(seen) == 2
    assert queued(broker) == []
