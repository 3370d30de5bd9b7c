"""The limits around a body: slots come back on every exit, fencing numbers reach the body, nothing is taken twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry

from orchestrator import Concurrency, Defer, Idempotent, PermanentError, RateLimit, RateLimited, fencing, task
from orchestrator.celery import get_app
from orchestrator.contracts.outcome import Verdict
from orchestrator.testing import perform, published
from orchestrator.testing.performing import delivery
from tests.support.broker import Broker

pytestmark = [pytest.mark.django_db(transaction=True)]

ENDS: list[BaseException] = [
    ValueError("no"),
    PermanentError("closed"),
    Defer(5),
    RateLimited(5),
    Ignore(),
    Reject("no"),
    Retry("again"),
    SystemExit(3),
]
_next: list[Any] = []


@task(limits=[Concurrency("policy-slot", 1), RateLimit("policy-rate", "1000/s")])
def body(number: int = 0) -> int | None:
    """End as told."""
    end = _next.pop() if _next else None
    if end is not None:
        raise end
    return fencing()


@task(limits=[Concurrency("policy-keyed", 1)], idempotency=Idempotent(key="{order}"))
def keyed(order: str) -> int | None:
    """Tell the number that the far side is to know."""
    return fencing()


@pytest.fixture(autouse=True)
def nothing_counted(broker: Broker) -> Iterator[None]:
    _next.clear()
    yield


def held(broker: Broker, name: str = "policy-slot") -> int:
    return int(broker.client.zcard(f"orchestrator:limit:c:{name}"))


def units(broker: Broker) -> int:
    return int(broker.client.zcard("orchestrator:limit:s:policy-rate"))


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_a_slot_comes_back_whatever_the_body_does(broker: Broker, end: BaseException) -> None:
    _next.append(end)
    with published():
        perform(body)
    assert held(broker) == 0
    assert units(broker) == 1


def test_the_body_gets_a_growing_fencing_number(broker: Broker) -> None:
    first, second = perform(body), perform(body)
    assert first.verdict is Verdict.SUCCEEDED
    assert second.value > first.value > 0
    assert fencing() is None


def test_the_number_of_a_key_is_the_one_that_counts(broker: Broker) -> None:
    """A slot is taken after the key, so its number could be higher than that of a key's next owner."""
    value = perform(keyed, "o").value
    assert value < int(broker.client.get("orchestrator:fence") or 0)


def test_a_limited_call_is_deferred_without_a_retry(broker: Broker) -> None:
    get_app().limits.change("policy-slot", 0)
    with published() as sent:
        outcome = perform(body)
    assert outcome.verdict is Verdict.DEFERRED
    (one,) = sent
    assert not one.options.get("retries")
    assert one.options["countdown"] > 0
    assert units(broker) == 0, "all or nothing"
    get_app().limits.restore("policy-slot")
    assert perform(one).verdict is Verdict.SUCCEEDED


def test_who_settles_for_a_dead_process_frees_its_slot(broker: Broker) -> None:
    attempt = delivery(body, (), {})

    broker.client.zadd("orchestrator:limit:c:policy-slot", {attempt.attempt_id: 2e15, "another": 2e15})
    attempt.settle_lost()
    assert broker.client.zrange("orchestrator:limit:c:policy-slot", 0, -1) == [b"another"]


def test_what_the_far_side_says_holds_for_the_next(broker: Broker) -> None:
    _next.append(RateLimited(30))
    with published() as sent:
        perform(body)
        assert perform(body, 2).verdict is Verdict.DEFERRED
    assert [one.options["countdown"] > 29 for one in sent] == [True, True]
