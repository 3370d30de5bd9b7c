"""What is left for the next call: made in order, once it can be, and before what follows from it is told."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from orchestrator.contracts import events
from orchestrator.contracts.idempotency import Began, Completed, Effect
from orchestrator.stores.redis import calls, partings
from orchestrator.stores.redis.calls import call
from orchestrator.stores.redis.idempotency import RECORD, RedisIdempotencyRecords
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.stores.redis.partings import Partings
from orchestrator.stores.redis.scripts import Script
from orchestrator.transport import inflight
from orchestrator.transport.buffer import tag_of
from orchestrator.transport.companion import Company
from orchestrator.transport.keys import Keys
from orchestrator.transport.ledger import Ledger
from tests.support.broker import Broker
from tests.support.wait import eventually


def script(text: str) -> Script:
    """Return a script that is in no file."""
    made = Script("lease_renew")
    made.text, made.sha = text, hashlib.sha1(text.encode()).hexdigest()
    return made


NOTE = script("return redis.call('RPUSH', KEYS[1], ARGV[1])")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    calls._left.clear()
    yield
    calls._left.clear()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Broker]:
    """A server that a test may stop."""
    made = Broker(tmp_path / "server").start()
    yield made
    made.stop()


@pytest.fixture
def here() -> Partings:
    """As in a process that acknowledges messages."""
    return Partings(lambda: True)


def leave(url: str, word: str, *, key: str = "said", vital: bool = False, lost: object = None) -> None:
    partings.leave(url, 1.0, NOTE, [key], [word], vital=vital, lost=lost)


def test_the_next_call_takes_along_what_was_left_in_order(broker: Broker, here: Partings) -> None:
    """Also where the server has forgotten its scripts, and whatever the call itself comes to."""
    leave(broker.url, "one")
    leave(broker.url, "two")
    assert here.urgent
    assert here.safe
    assert not broker.client.exists("said")
    assert call(broker.url, 1.0, NOTE, ["said"], ["three"]) == 3
    assert not here.urgent
    leave(broker.url, "four")
    broker.client.script_flush()
    with pytest.raises(redis.ResponseError, match="told to"):
        call(broker.url, 1.0, script("return redis.error_reply('ERR told to')"), [], [])
    assert broker.client.lrange("said", 0, -1) == [b"one", b"two", b"three", b"four"]


def test_what_was_left_outlives_a_server_that_was_away(server: Broker, here: Partings) -> None:
    leave(server.url, "one", vital=True)
    server.stop()
    assert not here.flush()
    assert here.due() > time.monotonic(), "not at once again"
    server.start()
    assert call(server.url, 1.0, NOTE, ["said"], ["two"]) == 2
    assert here.safe
    assert server.client.lrange("said", 0, -1) == [b"one", b"two"]


def test_an_interrupted_call_loses_nothing_that_was_left(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a soft time limit does; what may have been made is made again."""
    leave(broker.url, "one")
    real = redis.Connection.read_response

    def interrupted(*_: object, **__: object) -> object:
        monkeypatch.setattr(redis.Connection, "read_response", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.Connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call(broker.url, 1.0, NOTE, ["said"], ["two"])
    call(broker.url, 1.0, NOTE, ["said"], ["three"])
    assert broker.client.lrange("said", 0, -1)[-2:] == [b"one", b"three"]


def test_what_is_refused_for_now_is_asked_again_if_it_is_vital(broker: Broker, here: Partings) -> None:
    """What is refused for good is not, and what frees itself never."""
    broker.client.set("said", "no list")
    leave(broker.url, "one", vital=True)
    assert here.flush(), "a key of another type stays one"
    assert not here.urgent
    broker.client.delete("said")
    broker.client.config_set("maxmemory", "1")
    try:
        leave(broker.url, "may go")
        leave(broker.url, "must not", vital=True)
        assert not here.flush()
        assert len(calls.left()) == 1
    finally:
        broker.client.config_set("maxmemory", "0")
    assert here.due() > time.monotonic(), "not at once again"
    eventually(here.flush, 10)
    assert broker.client.lrange("said", 0, -1) == [b"must not"]


def test_an_acknowledgement_waits_for_what_is_vital(broker: Broker, server: Broker, here: Partings) -> None:
    """The record of an effect lies elsewhere and cannot be written: its message stays, until it is."""
    company, keys = Company(), Keys("", "test:")
    company.join(here, first=True)
    ledger = Ledger(broker.client, keys, lease=5, companion=company)
    broker.client.lpush("q", json.dumps({"body": "a"}))
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 1)
    claimed = ledger.take(buffer)
    assert claimed is not None
    records = RedisIdempotencyRecords(RedisLeases(server.url, "test:", 1))
    effect = Effect("task", uuid4().hex, "fingerprint", "id", 60)
    began = records.begin(effect, "me", 30)
    assert isinstance(began, Began)
    records.complete_soon(effect, began.lease, {"paid": 7})
    ledger.ack(tag_of(claimed))
    server.stop()
    ledger.flush()
    assert inflight.count(broker.client, keys) == 1
    server.start()
    eventually(lambda: ledger.flush() or not inflight.count(broker.client, keys), 10)
    assert records.begin(effect, "other", 30) == Completed("fingerprint", {"paid": 7})


def test_a_claim_takes_along_what_was_left_and_the_next_one_acknowledges(broker: Broker) -> None:
    """One call each: what makes an acknowledgement safe goes ahead of the claim, and the acknowledgement after it."""
    company, keys = Company(), Keys("", "test:")
    company.join(Partings(lambda: True, broker.url), first=True)
    ledger = Ledger(broker.client, keys, lease=5, companion=company)
    for name in "abc":
        broker.client.lpush("q", json.dumps({"body": name}))
    buffer = ledger.new_buffer()
    for number in range(3):
        ledger.claim(buffer, ["q"], 1)
        claimed = ledger.take(buffer)
        assert claimed is not None
        assert broker.client.lrange("said", 0, -1) == [str(one).encode() for one in range(number)]
        # What is claimed now, and what was done before the last claim.
        assert inflight.count(broker.client, keys) == (1 if number == 0 else 2)
        leave(broker.url, str(number), vital=True)
        ledger.ack(tag_of(claimed))
    ledger.flush()
    assert inflight.count(broker.client, keys) == 0
    assert broker.client.llen("said") == 3


def test_a_refused_record_rides_along_and_holds_its_acknowledgement_up(broker: Broker) -> None:
    """The claim is carried out all the same; nothing is acknowledged whose record was not written."""
    company, keys = Company(), Keys("", "test:")
    company.join(Partings(lambda: True, broker.url), first=True)
    ledger = Ledger(broker.client, keys, lease=5, companion=company)
    refused = script("return redis.error_reply('OOM command not allowed')")
    broker.client.lpush("q", json.dumps({"body": "a"}))
    buffer = ledger.new_buffer()
    ledger.claim(buffer, ["q"], 1)
    claimed = ledger.take(buffer)
    assert claimed is not None
    partings.leave(broker.url, 1.0, refused, [], [], vital=True)
    ledger.ack(tag_of(claimed))
    for _ in range(3):
        ledger.claim(buffer, ["q"], 1)
    ledger.flush()
    assert inflight.count(broker.client, keys) == 1


def test_whoever_comes_next_sees_the_record(broker: Broker) -> None:
    """The very next call brings it along, so a copy in the same process does not wait for its own owner."""
    records = RedisIdempotencyRecords(RedisLeases(broker.url, f"test:{uuid4().hex}:", 1))
    for key in ("first", "after the server forgot its scripts"):
        effect = Effect("task", key, "fingerprint", "id", 60)
        began = records.begin(effect, "me", 30)
        assert isinstance(began, Began)
        records.complete_soon(effect, began.lease, "done")
        assert records.begin(effect, "me too", 30) == Completed("fingerprint", "done")
        broker.client.script_flush()


def test_an_effect_whose_key_was_lost_is_told(
    broker: Broker, here: Partings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"test:{uuid4().hex}:"
    records = RedisIdempotencyRecords(RedisLeases(broker.url, prefix, 1))
    effect = Effect("task", "key", "fingerprint", "id", 60)
    began = records.begin(effect, "me", 30)
    assert isinstance(began, Began)
    broker.client.hset(f"{prefix}{RECORD}{effect.name}", mapping={"owner": "other", "value": '"theirs"'})
    told: list[object] = []
    monkeypatch.setitem(events._subscribers, events.LeaseLost, [told.append])
    records.complete_soon(effect, began.lease, "mine")
    assert here.flush()
    assert told == [events.LeaseLost("task", "id", "key", began.lease.fence)]
    assert "lost its key" in caplog.text


def test_threads_wait_for_nobody(here: Partings) -> None:
    """The loop of their process does not turn when they are done."""
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(here.taking))
    thread.start()
    thread.join()
    assert (here.taking, seen) == (True, [False])
