"""Calls without a client around them: whatever happens to a connection, an answer belongs to its question."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.stores.redis.calls import call
from tests.support.broker import Broker
from tests.support.scripts import script
from tests.support.wait import eventually

ECHO = script("if ARGV[1] == 'fail' then return redis.error_reply('ERR told to') end return {ARGV[1], #KEYS}")
SLOW = script("local t = redis.call('TIME')[1] + 2 while redis.call('TIME')[1] + 0 < t do end return 'late'")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Broker]:
    """A server that a test may stop."""
    made = Broker(tmp_path / "server").start()
    yield made
    made.stop()


def echo(url: str, word: str) -> bytes:
    found: list[bytes] = call(url, 1.0, ECHO, ["a", "b"], [word])
    return found[0]


def test_it_answers_and_says_what_the_server_refused(broker: Broker) -> None:
    assert call(broker.url, 1.0, ECHO, ["a", "b"], ["wörd"]) == ["wörd".encode(), 2]
    with pytest.raises(redis.ResponseError, match="told to"):
        echo(broker.url, "fail")
    assert echo(broker.url, "after") == b"after"


def test_a_server_that_was_started_again_costs_no_call(server: Broker) -> None:
    """Its connections are gone and its scripts forgotten."""
    assert echo(server.url, "before") == b"before"
    server.stop()
    with pytest.raises(redis.RedisError):
        echo(server.url, "meanwhile")
    server.start()
    assert echo(server.url, "after") == b"after"


def test_an_answer_that_came_too_late_is_nobodys(server: Broker) -> None:
    """What timed out is not read by the next call."""
    with pytest.raises(redis.TimeoutError):
        call(server.url, 0.3, SLOW, [], [])
    eventually(lambda: server.client.ping(), 10)
    assert [call(server.url, 0.3, ECHO, [], [str(number)])[0] for number in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_an_interrupt_in_the_middle_leaves_nothing_behind(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a soft time limit does, which is raised wherever the task happens to be."""
    assert echo(broker.url, "first") == b"first"
    real = redis.Connection.read_response

    def interrupted(*_: object, **__: object) -> object:
        monkeypatch.setattr(redis.Connection, "read_response", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(redis.Connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        echo(broker.url, "interrupted")
    assert echo(broker.url, "next") == b"next"


def test_threads_and_forks_do_not_mix_up_their_answers(broker: Broker) -> None:
    wrong: list[str] = []

    def ask(name: str) -> None:
        wrong.extend(name for number in range(200) if echo(broker.url, f"{name}{number}") != f"{name}{number}".encode())

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    child = os.fork()
    if not child:
        os._exit(0 if echo(broker.url, "child") == b"child" else 1)
    assert echo(broker.url, "parent") == b"parent"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert echo(broker.url, "parent") == b"parent"
