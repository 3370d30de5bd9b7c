"""Calls that nobody waits for: they arrive, cost nobody his answer, and outlive the server they were sent to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.stores.redis.wire import Wire
from tests.support.broker import Broker
from tests.support.scripts import script
from tests.support.wait import eventually

PUSH = script(
    "if ARGV[1] == 'fail' then return redis.error_reply('ERR told to') end return redis.call('RPUSH', KEYS[1], ARGV[1])"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Broker]:
    """A server that a test may stop."""
    made = Broker(tmp_path / "server").start()
    yield made
    made.stop()


def told(server: Broker) -> list[bytes]:
    found: list[bytes] = server.client.lrange("told", 0, -1)
    return found


def test_an_answer_belongs_to_its_question(broker: Broker) -> None:
    wire = Wire(broker.url, 1.0)
    for number in range(3):
        wire.tell(PUSH, keys=["told"], args=[number])
    assert wire.ask(PUSH, keys=["told"], args=["four"]) == 4
    wire.tell(PUSH, keys=["told"], args=["fail"])
    assert wire.ask(PUSH, keys=["told"], args=["five"]) == 5
    with pytest.raises(redis.ResponseError, match="told to"):
        wire.ask(PUSH, keys=["told"], args=["fail"])
    assert wire.ask(PUSH, keys=["told"], args=["six"]) == 6


def test_what_is_told_to_a_server_that_was_started_again_arrives(server: Broker) -> None:
    """Nobody waits for an answer, so nobody would notice that it went into a connection that is gone."""
    wire = Wire(server.url, 1.0)
    wire.tell(PUSH, keys=["told"], args=["before"])
    eventually(lambda: told(server) == [b"before"])
    server.kill()
    server.start()
    server.client.delete("told")
    wire.tell(PUSH, keys=["told"], args=["after"])
    eventually(lambda: told(server) == [b"after"])


def test_answers_that_nobody_waits_for_do_not_gather(broker: Broker) -> None:
    wire = Wire(broker.url, 1.0)

    def tell() -> bool:
        wire.tell(PUSH, keys=["told"], args=["x"])
        return len(wire._pending) < 3

    for _ in range(50):
        eventually(tell)


def test_a_server_that_forgot_its_scripts_learns_them_again(broker: Broker) -> None:
    wire = Wire(broker.url, 1.0)
    assert wire.ask(PUSH, keys=["told"], args=["a"]) == 1
    broker.client.script_flush()
    assert wire.ask(PUSH, keys=["told"], args=["b"]) == 2
    broker.client.script_flush()
    wire.tell(PUSH, keys=["told"], args=["may never arrive"])
    eventually(lambda: wire.tell(PUSH, keys=["told"], args=["c"]) or b"c" in told(broker))


def test_an_interrupt_in_the_middle_leaves_nothing_behind(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a soft time limit does, which is raised wherever the task happens to be."""
    wire = Wire(broker.url, 1.0)
    wire.tell(PUSH, keys=["told"], args=["a"])
    real = redis.Connection.read_response

    def interrupted(*_: object, **__: object) -> object:
        monkeypatch.setattr(redis.Connection, "read_response", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.Connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wire.ask(PUSH, keys=["told"], args=["b"])
    length = broker.client.llen("told")
    assert wire.ask(PUSH, keys=["told"], args=["c"]) == length + 1
