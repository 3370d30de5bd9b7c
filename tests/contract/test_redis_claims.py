"""Claims: of any number of owners exactly one holds a key."""

from __future__ import annotations

import multiprocessing
from uuid import uuid4

import pytest

from orchestrator.contracts.errors import InvalidOption, StoreUnavailable
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.claims import RedisClaims
from tests.support.broker import Broker
from tests.support.wait import eventually

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def claims(broker: Broker) -> RedisClaims:
    return RedisClaims(broker.url, f"test:{uuid4().hex}:", 5)


def test_the_first_owner_holds_the_key_and_keeps_it(claims: RedisClaims) -> None:
    assert claims.claim("letter", "one", 60)
    assert not claims.claim("letter", "two", 60)
    assert claims.claim("letter", "one", 60), "the owner that asks again still holds it"
    assert claims.claim("another", "two", 60)


def test_a_key_is_free_again_after_its_time(claims: RedisClaims) -> None:
    assert claims.claim("letter", "one", 0.2)
    assert not claims.claim("letter", "two", 60)
    eventually(lambda: claims.claim("letter", "two", 60), 30)
    assert not claims.claim("letter", "one", 60)


def test_asking_again_extends_the_time(claims: RedisClaims, broker: Broker) -> None:
    claims.claim("letter", "one", 5)
    claims.claim("letter", "one", 500)
    (key,) = broker.client.keys("test:*claim:letter")
    assert broker.client.pttl(key) > 100_000


def test_of_many_processes_one_wins(claims: RedisClaims) -> None:
    winners = FORK.Queue()
    barrier = FORK.Barrier(8)

    def compete(name: str) -> None:
        barrier.wait(30)
        for round_ in range(20):
            if claims.claim(f"round-{round_}", name, 60):
                winners.put((round_, name))

    children = [FORK.Process(target=compete, args=(f"owner-{n}",)) for n in range(8)]
    for child in children:
        child.start()
    won = [winners.get(timeout=30) for _ in range(20)]
    for child in children:
        child.join(30)
    assert sorted(round_ for round_, _ in won) == list(range(20))
    assert winners.empty()


def test_scripts_survive_a_server_that_forgot_them(claims: RedisClaims, broker: Broker) -> None:
    assert claims.claim("letter", "one", 60)
    broker.client.script_flush()
    assert not claims.claim("letter", "two", 60)


def test_a_missing_redis_is_named() -> None:
    port = free_port()
    with pytest.raises(StoreUnavailable, match=str(port)):
        RedisClaims(f"redis://127.0.0.1:{port}/0", "test:", 1).claim("letter", "one", 60)


def test_an_address_that_is_no_redis_is_refused_with_the_setting() -> None:
    with pytest.raises(InvalidOption, match="ORCHESTRATOR_STATE_URL"):
        RedisClaims("amqp://user:s3cret@host//", "test:", 1).claim("letter", "one", 60)
