"""A queue that is shared fairly: nothing is lost, each tenant's order is kept, a quiet tenant passes a busy one."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.contracts.message import FAIRNESS, HEADER
from orchestrator.transport import fairness, inflight
from orchestrator.transport.fairness import FairQueues
from orchestrator.transport.inflight import InFlight
from orchestrator.transport.keys import Keys
from tests.support import environment

KEYS = Keys("pre.", "{shop}:")
LEASE = 30.0


@pytest.fixture
def client(emptied: redis.Redis) -> redis.Redis:
    """An empty one, on which the queue is known to be fair."""
    FairQueues(emptied, KEYS).notice("q", {HEADER: {FAIRNESS: "1 any"}})
    return emptied


@pytest.fixture
def mine(client: redis.Redis) -> InFlight:
    return InFlight(client, KEYS, "me", LEASE)


def put(client: redis.Redis, tenant: str, *names: object, weight: int = 1, step: int = 0, keys: Keys = KEYS) -> None:
    """Put messages into the queue as kombu does."""
    ours = {FAIRNESS: f"{weight} {tenant}"} if tenant else {}
    for name in names:
        client.lpush(keys.ready("q", step), json.dumps({"body": f"{tenant}{name}", "headers": {HEADER: ours}}))


def names(claimed: Any) -> list[str]:
    return [json.loads(one.message)["body"] for one in claimed]


def take(mine: InFlight, numbers: Iterator[int], want: int = 1) -> list[str]:
    serial = next(numbers) * 1000
    return names(mine.turn(["q"], serial, want, ()).claimed)


def test_a_quiet_tenant_passes_a_busy_one(client: redis.Redis, mine: InFlight) -> None:
    """Its ten are done before two times ten have been taken, however many came before them."""
    numbers = itertools.count()
    put(client, "busy", *range(3000))
    assert [take(mine, numbers) for _ in range(5)] == [[f"busy{number}"] for number in range(5)]
    put(client, "quiet", *range(10))
    order = [name for _ in range(30) for name in take(mine, numbers)]
    places = [place for place, name in enumerate(order) if name.startswith("quiet")]
    assert len(places) == 10
    assert places[-1] < 20
    assert [name for name in order if name.startswith("busy")] == [f"busy{number}" for number in range(5, 25)]


def test_shares_follow_the_weights(client: redis.Redis, mine: InFlight) -> None:
    numbers = itertools.count()
    put(client, "a", *range(200), weight=3)
    put(client, "b", *range(200))
    put(client, "c", *range(200))
    taken = Counter(name[0] for _ in range(25) for name in take(mine, numbers, 10))
    assert taken["a"] == pytest.approx(150, abs=21)
    assert taken["b"] == pytest.approx(50, abs=11)
    assert taken["b"] == pytest.approx(taken["c"], abs=1)


def test_who_comes_one_by_one_gets_no_more_than_his_share(client: redis.Redis, mine: InFlight) -> None:
    """A tenant that always has just one waiting does not start as a newcomer each time."""
    numbers = itertools.count()
    put(client, "busy", *range(300))
    taken: Counter[str] = Counter()
    given = 0
    for _ in range(100):
        if taken["drip"] == given:
            given += 1
            put(client, "drip", given)
        taken.update(name[:4] for name in take(mine, numbers))
    assert taken["drip"] <= 56


def test_messages_without_a_key_are_one_tenant(client: redis.Redis, mine: InFlight) -> None:
    numbers = itertools.count()
    put(client, "", *range(50))
    put(client, "a", *range(50))
    order = [name for _ in range(20) for name in take(mine, numbers)]
    assert Counter(name[0] == "a" for name in order) == {True: 10, False: 10}


def test_priorities_come_first(client: redis.Redis, mine: InFlight) -> None:
    numbers = itertools.count()
    put(client, "a", 1, 2)
    put(client, "b", "-urgent", step=9)
    assert take(mine, numbers, 5) == ["b-urgent", "a1", "a2"]


def test_what_is_returned_comes_back_first_and_in_order(client: redis.Redis, mine: InFlight) -> None:
    put(client, "a", 1, 2, 3)
    put(client, "b", 1, 2)
    turn = mine.turn(["q"], 0, 3, ())
    first = names(turn.claimed)
    mine.give_back([one.serial for one in turn.claimed])
    assert names(mine.turn(["q"], 10, 3, ()).claimed) == first


def test_a_dead_owners_messages_come_back(client: redis.Redis, mine: InFlight) -> None:
    """And travel alone, as everywhere."""
    put(client, "a", 1, 2, 3)
    assert len(mine.turn(["q"], 0, 2, ()).claimed) == 2
    inflight.recover(client, KEYS, LEASE, 5)
    client.zadd(KEYS.owners, {"me": 1}, xx=True)
    assert inflight.recover(client, KEYS, LEASE, 5).returned == 2
    other = InFlight(client, KEYS, "other", LEASE)
    assert [names(other.turn(["q"], serial, 5, ()).claimed) for serial in (0, 10, 20)] == [["a1"], ["a2"], ["a3"]]


def test_counts_purge_and_wrong_keys(client: redis.Redis, mine: InFlight) -> None:
    put(client, "a", 1, 2, 3)
    client.set("{shop}:fair:line:pre.q:b", "no list")
    put(client, "b", 1)
    assert names(mine.turn(["q"], 0, 1, ()).claimed) == ["a1"]
    assert fairness.counts(client, KEYS, "q")[0] == 2
    assert names(mine.turn(["q"], 10, 1, ()).claimed) == ["b1"], "served without being sorted"
    put(client, "a", 4)
    assert fairness.purge(client, KEYS, "q") == 2
    assert names(mine.turn(["q"], 20, 5, ()).claimed) == ["a4"]


def test_a_queue_without_keys_stays_as_it_is(client: redis.Redis, mine: InFlight) -> None:
    client.delete(KEYS.fair)
    FairQueues(client, KEYS).notice("q", {HEADER: {"v": 1}})
    FairQueues(client, KEYS).notice("q", {"task": "x"})
    assert not client.exists(KEYS.fair)
    put(client, "a", 1, 2)
    put(client, "b", 1)
    assert names(mine.turn(["q"], 0, 3, ()).claimed) == ["a1", "a2", "b1"]
    assert not client.keys("{shop}:fair*")


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(1, 30)),
        st.tuples(st.just("claim"), st.just(""), st.integers(1, 8)),
        st.tuples(st.just("give back"), st.just(""), st.just(0)),
        st.tuples(st.just("die"), st.just(""), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves=MOVES)
def test_nothing_is_lost_or_doubled_by_any_schedule(moves: list[tuple[str, str, int]]) -> None:
    client = environment.world().broker.client
    client.flushall()
    FairQueues(client, KEYS).notice("q", {HEADER: {FAIRNESS: "1 any"}})
    numbers, count, sent = itertools.count(1), itertools.count(), []
    mine = InFlight(client, KEYS, "me0", LEASE)
    held: list[Any] = []
    done: list[str] = []
    for kind, tenant, number in moves:
        if kind == "put":
            fresh = [next(count) for _ in range(number)]
            sent += [f"{tenant}{one}" for one in fresh]
            put(client, tenant, *fresh)
        elif kind == "claim":
            serial = next(numbers) * 1000
            acks = [one.serial for one in held]
            done += names(held)
            held = list(mine.turn(["q"], serial, number, acks).claimed)
        elif kind == "give back":
            mine.give_back([one.serial for one in held])
            held = []
        else:
            inflight.recover(client, KEYS, LEASE, 1000)
            client.zadd(KEYS.owners, {mine.owner: 1}, xx=True)
            inflight.recover(client, KEYS, LEASE, 1000)
            mine, held = InFlight(client, KEYS, f"me{next(numbers)}", LEASE), []
    done += names(held)
    while turn := mine.turn(["q"], next(numbers) * 1000, 64, ()).claimed:
        done += names(turn)
    assert sorted(done) == sorted(sent)
    if not any(kind == "die" for kind, _, _ in moves):
        for tenant in "abc":
            of_one = [int(name[1:]) for name in done if name[0] == tenant]
            assert of_one == sorted(of_one)


def test_order_within_a_tenant_is_the_callers(client: redis.Redis, mine: InFlight) -> None:
    by: Callable[[str], list[str]] = lambda tenant: [name for name in order if name.startswith(tenant)]  # noqa: E731
    put(client, "a", *range(1500))
    put(client, "b", *range(40))
    numbers = itertools.count()
    order = [name for _ in range(10) for name in take(mine, numbers, 16)]
    assert by("a") == [f"a{number}" for number in range(len(by("a")))]
    assert by("b") == [f"b{number}" for number in range(40)]


def test_the_lowest_priority_gets_its_share_of_claims(client: redis.Redis) -> None:
    """Higher ones come first, but one claim in so many begins at the other end."""
    put(client, "", *range(20))
    put(client, "", *(f"-urgent{number}" for number in range(20)), step=9)
    sharing, numbers = InFlight(client, KEYS, "me", LEASE, low_share=0.25), itertools.count()
    order = [name for _ in range(16) for name in take(sharing, numbers)]
    assert [place for place, name in enumerate(order, 1) if "urgent" not in name] == [4, 8, 12, 16]
    strict = InFlight(client, KEYS, "strict", LEASE)
    assert all("urgent" in name for _ in range(8) for name in take(strict, numbers))
