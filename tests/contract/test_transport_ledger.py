"""What a process knows of its messages agrees with what the broker has, whatever gets lost between them."""

from __future__ import annotations

import json
import logging
import time

import pytest
import redis

from orchestrator.transport import inflight
from orchestrator.transport.buffer import tag_of
from orchestrator.transport.inflight import InFlight
from orchestrator.transport.keys import Keys
from orchestrator.transport.ledger import Ledger
from tests.support.broker import Broker
from tests.support.wait import eventually

KEYS = Keys("", "test:")
LEASE = 2.0


@pytest.fixture
def client(broker: Broker) -> redis.Redis:
    return broker.client


@pytest.fixture
def ledger(client: redis.Redis) -> Ledger:
    return Ledger(client, KEYS, lease=LEASE)


def put(client: redis.Redis, *names: str) -> None:
    for name in names:
        client.lpush("q", json.dumps({"body": name}))


def test_acknowledgements_gather_and_travel_with_the_next_claim(ledger: Ledger, client: redis.Redis) -> None:
    put(client, "a", "b", "c")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 2)
    for _ in range(2):
        claimed = ledger.take(buffer)
        assert claimed is not None
        ledger.ack(tag_of(claimed))
    assert inflight.count(client, KEYS) == 2
    ledger.claim(buffer, ["q"], 2)
    assert inflight.count(client, KEYS) == 1
    assert len(buffer) == 1


def test_an_acknowledgement_is_due_soon(ledger: Ledger, client: redis.Redis) -> None:
    put(client, "a")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 1)
    claimed = ledger.take(buffer)
    assert claimed is not None
    ledger.ack(tag_of(claimed))
    assert ledger.next_need() <= time.monotonic() + 0.05
    eventually(lambda: ledger.flush_if_due() or not inflight.count(client, KEYS), 5)
    assert not ledger.busy


def test_what_nobody_gets_to_is_returned(ledger: Ledger, client: redis.Redis) -> None:
    put(client, "a", "b", "c")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 3)
    ledger.take(buffer)
    eventually(lambda: ledger.return_stuck() or not buffer, 5)
    assert [json.loads(raw)["body"] for raw in client.lrange("q", 0, -1)] == ["c", "b"]
    assert inflight.count(client, KEYS) == 1


def test_messages_whose_claim_was_never_answered_come_back(ledger: Ledger, client: redis.Redis) -> None:
    put(client, "a", "b")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 1)
    # A call of ours that the broker carried out after we had given it up.
    InFlight(client, KEYS, ledger.owner, LEASE).turn(["q"], 100, 1, ())
    assert (client.llen("q"), inflight.count(client, KEYS)) == (0, 2)
    ledger.renew()
    assert (client.llen("q"), inflight.count(client, KEYS)) == (1, 1)


def test_a_lost_lease_is_told_and_what_was_held_forgotten(
    ledger: Ledger, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    put(client, "a", "b")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 2)
    claimed = ledger.take(buffer)
    assert claimed is not None
    before = ledger.owner
    inflight.recover(client, KEYS, LEASE, 5)
    client.zadd(KEYS.owners, {before: 1})
    assert inflight.recover(client, KEYS, LEASE, 5).returned == 2
    with caplog.at_level(logging.WARNING):
        ledger.renew()
        ledger.ack(tag_of(claimed))
    assert "could not renew its lease" in caplog.text
    assert "came too late" in caplog.text
    assert (len(buffer), ledger.busy, client.llen("q")) == (0, False, 2)
    assert ledger.owner != before


def test_what_outlives_its_channel_is_kept_until_somebody_says_that_it_does_not_run(
    ledger: Ledger, client: redis.Redis
) -> None:
    put(client, "a", "b")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 2)
    tags = [tag_of(claimed) for claimed in (ledger.take(buffer), ledger.take(buffer)) if claimed]
    ledger.adopt(tags)
    assert ledger.orphans == set(tags)
    ledger.give_back_orphans({tags[0]})
    assert (client.llen("q"), inflight.count(client, KEYS)) == (1, 1)
    ledger.ack(tags[0])
    ledger.flush()
    assert (inflight.count(client, KEYS), ledger.orphans) == (0, set())


def test_returns_wait_for_a_broker_that_is_away(ledger: Ledger, client: redis.Redis, broker: Broker) -> None:
    put(client, "a")
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 1)
    broker.kill()
    ledger.drop_buffer(buffer)
    assert ledger.busy
    broker.start()
    ledger.flush()
    assert (client.llen("q"), ledger.busy) == (1, False)
