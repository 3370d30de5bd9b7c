"""A claim that is sent ahead is carried out with the wake-up, and loses and doubles nothing, whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest
import redis
from kombu import Consumer, Producer, Queue

from orchestrator.celery import get_app
from orchestrator.stores.redis.direct import packed
from orchestrator.transport import inflight
from orchestrator.transport.ahead import Ahead
from orchestrator.transport.buffer import tag_of
from orchestrator.transport.inflight import InFlight, claim_script
from orchestrator.transport.keys import Keys
from orchestrator.transport.ledger import Ledger
from tests.support import inflight as held
from tests.support.broker import Broker
from tests.support.wait import eventually

KEYS = Keys("", "test:")
LEASE = 30.0


@pytest.fixture
def client(broker: Broker) -> redis.Redis:
    return broker.client


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    client.script_load(claim_script.text)
    return Ledger(client, KEYS, lease=LEASE)


@pytest.fixture
def line(client: redis.Redis) -> Iterator[Any]:
    """A connection that can wait for a wake-up, as a channel's does."""
    made: Any = client.connection_pool.make_connection()
    made.connect()
    yield made
    made.disconnect()


def wait_for_work(ahead: Ahead, line: Any, want: int = 2) -> None:
    line.send_packed_command([packed("BLPOP", KEYS.wake("q"), 0) + ahead.begin(["q"], want, strict=False, within=0.1)])


def waits(client: redis.Redis) -> bool:
    """Whether a consumer is blocked at the broker."""
    return bool(client.info("clients")["blocked_clients"])


def publish(client: redis.Redis, *names: str) -> None:
    for name in names:
        client.lpush("q", json.dumps({"body": name}))
    client.lpush(KEYS.wake("q"), "1")


def waiting(client: redis.Redis) -> list[str]:
    return [json.loads(raw)["body"] for raw in client.lrange("q", 0, -1)]


def test_it_is_carried_out_in_the_moment_of_the_wake_up(ledger: Ledger, client: redis.Redis, line: Any) -> None:
    ahead, buffer = Ahead(ledger), ledger.new_buffer()
    wait_for_work(ahead, line)
    eventually(lambda: waits(client), 10)
    publish(client, "a")
    assert eventually(lambda: inflight.count(client, KEYS) == 1, 10), "nobody has to ask for it"
    assert line.read_response()
    more = ahead.heard(buffer, line.read_response())
    assert [json.loads(claimed.message)["body"] for claimed in buffer.messages] == ["a"]
    assert not more
    assert not ahead


def test_what_it_took_is_not_returned_before_its_answer_is_read(ledger: Ledger, client: redis.Redis, line: Any) -> None:
    ahead, buffer = Ahead(ledger), ledger.new_buffer()
    wait_for_work(ahead, line)
    publish(client, "a", "b")
    eventually(lambda: inflight.count(client, KEYS) == 2, 10)
    ledger.renew()
    assert waiting(client) == []
    line.read_response()
    ahead.heard(buffer, line.read_response())
    claimed = ledger.take(buffer)
    assert claimed is not None
    ledger.ack(tag_of(claimed))
    ledger.renew()
    ledger.flush()
    assert inflight.count(client, KEYS) == 1
    assert waiting(client) == []


def test_a_lost_leaving_is_still_found_beside_it(ledger: Ledger, client: redis.Redis, line: Any) -> None:
    ahead = Ahead(ledger)
    client.lpush("q", json.dumps({"body": "lost"}))
    # A call of ours that the broker carried out after we had given it up.
    InFlight(client, KEYS, ledger.owner, LEASE).turn(["q"], 100, 1, ())
    wait_for_work(ahead, line)
    publish(client, "a")
    eventually(lambda: inflight.count(client, KEYS) == 2, 10)
    ledger.renew()
    assert waiting(client) == ["lost"]


def test_what_it_took_comes_back_when_its_answer_is_lost(ledger: Ledger, client: redis.Redis, line: Any) -> None:
    ahead = Ahead(ledger)
    wait_for_work(ahead, line)
    publish(client, "a", "b")
    eventually(lambda: inflight.count(client, KEYS) == 2, 10)
    line.disconnect()
    ahead.unheard()
    eventually(lambda: ledger.flush_if_due() or inflight.count(client, KEYS) == 0, 10)
    assert waiting(client) == ["b", "a"], "in the order in which they came"
    assert not ahead


def test_what_it_took_goes_to_others_when_its_answer_is_not_read(
    ledger: Ledger, client: redis.Redis, line: Any
) -> None:
    """The loop is busy elsewhere, or the network forgot the connection; the process lives, and so its lease."""
    ahead, buffer = Ahead(ledger), ledger.new_buffer()
    wait_for_work(ahead, line)
    publish(client, "a", "b")
    eventually(lambda: inflight.count(client, KEYS) == 2, 10)

    def back() -> bool:
        ledger.return_stuck()
        ledger.flush_if_due()
        return waiting(client) == ["b", "a"]

    eventually(back, 10)
    assert ahead, "the connection still owes an answer, which has to be read"
    line.read_response()
    assert ahead.heard(buffer, line.read_response()), "it may be had again"
    assert not buffer
    assert not ahead
    assert waiting(client) == ["b", "a"]


def test_a_connection_that_ends_before_the_wake_up_takes_nothing(
    ledger: Ledger, client: redis.Redis, line: Any
) -> None:
    ahead = Ahead(ledger)
    wait_for_work(ahead, line)
    eventually(lambda: waits(client), 10)
    line.disconnect()
    ahead.unheard()
    ledger.flush()
    publish(client, "a")
    assert inflight.count(client, KEYS) == 0
    assert waiting(client) == ["a"]


def test_what_was_taken_under_a_lease_that_ran_out_goes_back(ledger: Ledger, client: redis.Redis, line: Any) -> None:
    ahead, buffer = Ahead(ledger), ledger.new_buffer()
    wait_for_work(ahead, line)
    eventually(lambda: waits(client), 10)
    # There is no lease yet: the broker says that it ran out, and the ledger goes on under another name.
    ledger.renew()
    publish(client, "a")
    line.read_response()
    assert ahead.heard(buffer, line.read_response()), "it may be had again"
    assert not buffer
    assert waiting(client) == ["a"]


# --- as channels use it -----------------------------------------------------------------


@pytest.fixture
def consumer(broker: Broker) -> Iterator[Consumer]:
    """One that waits as in an event loop, with its claim sent ahead."""
    connection = get_app().connection_for_read()
    connection.transport.cycle.evented = True
    with Consumer(connection.channel(), [Queue("ahead")], callbacks=[lambda body, message: message.ack()]) as made:
        cycle = connection.transport.cycle
        cycle.on_poll_start()  # claims, and finds nothing
        cycle.on_poll_start()  # waits
        yield made
    connection.close()


def send(client: redis.Redis) -> None:
    with get_app().connection_for_write() as connection:
        Producer(connection.channel()).publish({"a": 1}, routing_key="ahead")


def test_a_channel_that_closes_returns_what_was_on_its_way(consumer: Consumer, client: redis.Redis) -> None:
    eventually(lambda: waits(client), 10)
    send(client)
    eventually(lambda: held.count(client) == 1, 10, lambda: "the claim that was sent ahead was carried out")
    consumer.channel.close()
    assert held.count(client) == 0
    assert client.llen("ahead") == 1


def test_a_queue_that_is_not_consumed_any_more_gets_its_messages_back(consumer: Consumer, client: redis.Redis) -> None:
    eventually(lambda: waits(client), 10)
    channel, cycle = consumer.channel, consumer.channel.connection.cycle
    connection = channel.client.connection
    consumer.cancel()
    send(client)
    eventually(lambda: held.count(client) == 1, 10)
    with contextlib.suppress(Empty):
        cycle.on_readable(connection._sock.fileno())
    assert held.count(client) == 0
    assert client.llen("ahead") == 1


def test_a_script_that_the_broker_forgot_is_sent_again(consumer: Consumer, client: redis.Redis) -> None:
    eventually(lambda: waits(client), 10)
    got: list[Any] = []
    consumer.callbacks = [lambda body, message: got.append(body)]
    client.script_flush()
    send(client)
    channel, cycle = consumer.channel, consumer.channel.connection.cycle
    cycle.on_readable(channel.client.connection._sock.fileno())
    assert got == [{"a": 1}]
