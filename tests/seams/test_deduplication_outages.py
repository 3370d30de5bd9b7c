"""Duplicates while the state or the broker is away and workers die: rather a second message than none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.celery import get_app
from orchestrator.contracts.deduplication import FIELD, Claim, Mode
from orchestrator.contracts.errors import BrokerUnavailable, StoreUnavailable
from orchestrator.engine.publication import Dispatcher, describe
from orchestrator.policies.deduplication import Deduplication
from orchestrator.stores.redis.deduplication import RedisDeduplicationLocks
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.testing.stores import use
from tests.conftest import Platform
from tests.integration.test_transport_producer import dead, frozen
from tests.support import calls, environment, far_side
from tests.support.broker import Broker
from tests.support.calls import debounce, finish, start, values
from tests.support.wait import eventually, stays

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Broker]:
    """A Redis of its own for locks, so that it can go while the broker stays."""
    made = Broker(tmp_path / "state").start()
    with use(made.url):
        yield made
    made.stop()


def held() -> list[Any]:
    return environment.world().broker.client.keys("*lease:dedup*")


def test_while_the_state_is_away_calls_are_sent_and_run(platform: Platform, state: Broker) -> None:
    """Open: two calls run twice. What may have to take over newer arguments waits until they can be known."""
    worker = platform.worker(env={**calls.ENV, "ORCHESTRATOR_STATE_URL": state.url})
    first = debounce.delay("a", 1)
    assert debounce.delay("a", 2).duplicate_of == first.id
    state.kill()
    begun = time.monotonic()
    sent = [call.delay("a", number) for call in (start, finish) for number in range(2)]
    assert time.monotonic() - begun < 1.5
    assert [one.duplicate_of for one in sent] == [None] * 4
    assert [one.get(timeout=60) for one in sent] == [0, 1, 0, 1]
    eventually(lambda: "cannot be looked up" in worker.log)
    assert not values("debounce", "a")
    state.start()
    assert first.get(timeout=60) == 2
    assert values("debounce", "a") == [2]


def test_closed_a_call_is_refused_while_the_state_is_away(platform: Platform, state: Broker) -> None:
    """``DEDUPLICATION_FAILS`` = "closed"."""
    app = get_app()
    locks = RedisDeduplicationLocks(RedisLeases(state.url, "orchestrator:", 1), 30)
    policy = Deduplication(locks, Dispatcher(app), fails_open=False)

    def call() -> Any:
        return policy.on_publish(describe(app, start.name, ("a",), {}, (), {}), lambda publication: publication)

    assert FIELD in call().header
    state.kill()
    with pytest.raises(StoreUnavailable):
        call()


def test_a_frozen_state_holds_callers_once(platform: Platform, state: Broker) -> None:
    with frozen(state):
        begun = time.monotonic()
        for number in range(20):
            start.delay("a", number)
        assert time.monotonic() - begun < 2.5
    assert platform.broker.client.llen("celery") == 20


def test_a_call_that_the_broker_did_not_take_holds_nobody_up(platform: Platform, state: Broker) -> None:
    """Its caller has the error; the next call is the first one."""
    for trouble in (dead, frozen):
        with trouble(platform.broker), pytest.raises(BrokerUnavailable):
            start.apply_async(("a", 1), outbox=False)
        sent = start.apply_async(("a", 2), outbox=False)
        assert sent.duplicate_of is None
        RedisDeduplicationLocks(RedisLeases(state.url, "orchestrator:", 1), 30).end(
            Claim(start.name, "a", Mode.UNTIL_STARTED), sent.id
        )


def test_a_caller_that_died_while_it_published_costs_nobody_a_call(platform: Platform) -> None:
    """Nobody knows whether its message was sent: others wait a moment, then send theirs."""
    locks = RedisDeduplicationLocks(RedisLeases(platform.broker.url, "orchestrator:", 5), 30)
    locks.take(Claim(start.name, "a", Mode.UNTIL_STARTED), "died", "", None)
    begun = time.monotonic()
    assert start.delay("a").duplicate_of is None
    assert 1.5 < time.monotonic() - begun < 4
    assert platform.broker.client.llen("celery") == 1


def test_the_lock_of_a_killed_worker_lasts_until_its_message_runs_again(platform: Platform) -> None:
    env = {**calls.ENV, "ORCHESTRATOR_TEST_LEASE": "2"}
    worker = platform.worker(env=env)
    first = finish.delay("a", 1, until="go")
    eventually(lambda: values("finish", "a"))
    worker.kill_group()
    assert finish.delay("a", 2).duplicate_of == first.id
    platform.worker(env=env)
    eventually(lambda: values("finish", "a") == [1, 1])
    assert finish.delay("a", 3).duplicate_of == first.id
    far_side.record("go")
    assert first.get(timeout=60) == 1
    eventually(lambda: not held())


def test_a_lock_outlasts_its_span_while_its_task_runs(platform: Platform) -> None:
    """Renewed, like every lease."""
    platform.worker(env={**calls.ENV, "ORCHESTRATOR_TEST_LEASE": "2"})
    first = finish.delay("a", 1, until="go")
    eventually(lambda: values("finish", "a"))
    (key,) = held()
    platform.broker.client.pexpire(key, 5500)
    stays(lambda: platform.broker.client.pttl(key) > 0, 6.5)
    far_side.record("go")
    assert first.get(timeout=60) == 1
    eventually(lambda: not held())
