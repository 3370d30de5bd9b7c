"""The promises of lines: a message is always in one place, and comes out in its turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator import Concurrency, RateLimit
from orchestrator.contracts.limiting import Asking, Charge, Granted, Limited, Waiting
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.stores.redis.limits import RedisLimits
from orchestrator.transport import inflight, parking
from orchestrator.transport.inflight import InFlight
from orchestrator.transport.keys import Keys
from tests.support import servers
from tests.support.wait import eventually

KEYS = Keys("pre.", "{shop}:")
LEASE = 30.0


@pytest.fixture(scope="module", params=servers.NAMES)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of each kind."""
    with servers.running(request.param, tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def client(url: str) -> redis.Redis:
    """An empty one."""
    made = redis.Redis.from_url(url)
    made.flushall()
    return made


@pytest.fixture
def limits(url: str, client: redis.Redis) -> RedisLimits:
    return RedisLimits(RedisLeases(url, KEYS.ours, 5), aging=60)


@pytest.fixture
def mine(client: redis.Redis) -> InFlight:
    return InFlight(client, KEYS, "me", LEASE)


SLOT = Concurrency("room", 1).charge("t", {}, 0)
RATE = RateLimit("rate", "5/s").charge("t", {}, 0)


def put(client: redis.Redis, *names: str, step: int = 0) -> None:
    for name in names:
        client.lpush(KEYS.ready("q", step), json.dumps({"body": name}))


def names(turn: inflight.Turn) -> list[str]:
    return [json.loads(one.message)["body"] for one in turn.claimed]


def where(charge: Charge, task: str, *, place: str = "", priority: int = 0) -> Waiting:
    return Waiting(charge.id, charge.spec, charge.units, place, priority, task)


def ask(limits: RedisLimits, task: str, *charges: Charge, priority: int = 0) -> Granted | Limited:
    return limits.acquire(Asking(f"attempt-{task}", task, priority), charges, LEASE)


def everywhere(client: redis.Redis) -> dict[str, int]:
    """Return how many messages lie where."""
    lists = [KEYS.ready("q", step) for step in (0, 9)] + [KEYS.released("q", step) for step in (0, 9)]
    found = {
        "queued": sum(int(client.llen(name)) for name in lists),  # type: ignore[arg-type]
        "in flight": inflight.count(client, KEYS),
        "parked": parking.count(client, KEYS),
    }
    return {place: count for place, count in found.items() if count}


def test_a_message_moves_from_flight_into_line_and_back(
    client: redis.Redis, mine: InFlight, limits: RedisLimits
) -> None:
    """Released it comes before what is ready, in its turn, and asks as one who has been promised."""
    assert isinstance(ask(limits, "holder", SLOT), Granted)
    put(client, "a", "b", "c", "d")
    mine.turn(["q"], 0, 3, ())
    for serial, task in ((1, "a"), (2, "b"), (3, "c")):
        assert isinstance(ask(limits, task, SLOT), Limited)
        assert mine.park(serial, where(SLOT, task))
    assert everywhere(client) == {"queued": 1, "parked": 3}
    limits.release("attempt-holder", [SLOT.id])
    assert everywhere(client) == {"queued": 2, "parked": 2}
    assert isinstance(ask(limits, "newcomer", SLOT), Limited), "it has been promised to another"
    assert names(mine.turn(["q"], 3, 1, ())) == ["a"]
    assert isinstance(ask(limits, "a", SLOT), Granted)
    limits.release("attempt-a", [SLOT.id])
    assert names(mine.turn(["q"], 4, 2, ())) == ["b", "d"]


def test_what_went_to_another_owner_is_not_parked(client: redis.Redis, mine: InFlight) -> None:
    put(client, "a")
    mine.turn(["q"], 0, 1, ())
    assert not InFlight(client, KEYS, "other", LEASE).park(1, where(SLOT, "a"))
    assert mine.turn([], 1, 0, [1]).acknowledged == 1
    assert not mine.park(1, where(SLOT, "a"))
    assert everywhere(client) == {}


def test_higher_priorities_wait_in_front_and_age(client: redis.Redis, mine: InFlight, limits: RedisLimits) -> None:
    """A step of priority is worth a minute of waiting; whoever ranks before the first in line may pass it."""
    ask(limits, "holder", SLOT)
    put(client, "plain", "old")
    put(client, "premium", step=9)
    assert names(mine.turn(["q"], 0, 3, ())) == ["premium", "plain", "old"]
    mine.park(2, where(SLOT, "plain"))
    mine.park(1, where(SLOT, "premium", priority=9))
    mine.park(3, where(SLOT, "old", place="1"))
    for number, expected in enumerate(("old", "premium", "plain")):
        limits.release("attempt-holder" if not number else f"attempt-{number}", [SLOT.id])
        assert names(mine.turn(["q"], 3 + number, 1, ())) == [expected]
        assert isinstance(limits.acquire(Asking(f"attempt-{number + 1}", expected), [SLOT], LEASE), Granted)


def test_a_limit_on_the_way_costs_nobody_his_place(client: redis.Redis, mine: InFlight, limits: RedisLimits) -> None:
    """Released from one line and held up by the next limit, a message keeps its age; its promise goes to the next."""
    for number in range(5):
        ask(limits, f"r{number}", RATE)
    ask(limits, "holder", SLOT)
    put(client, "a", "b")
    mine.turn(["q"], 0, 2, ())
    mine.park(1, where(SLOT, "a"))
    mine.park(2, where(SLOT, "b"))
    limits.release("attempt-holder", [SLOT.id])
    assert names(mine.turn(["q"], 2, 1, ())) == ["a"]
    found = ask(limits, "a", SLOT, RATE)
    assert isinstance(found, Limited)
    assert found.charge == RATE
    assert int(found.place) > 0
    assert names(mine.turn(["q"], 3, 1, ())) == ["b"], "the slot that a was promised is b's now"


def test_time_releases_what_a_rate_lets_through(client: redis.Redis, mine: InFlight, limits: RedisLimits) -> None:
    for number in range(5):
        ask(limits, f"r{number}", RATE)
    put(client, *"abcdefg")
    mine.turn(["q"], 0, 7, ())
    for serial, task in enumerate("abcdefg", 1):
        assert mine.park(serial, where(RATE, task))
    left = parking.release_due(client, KEYS)
    assert 0.5 < left <= 1
    assert everywhere(client) == {"parked": 7}

    def released() -> bool:
        parking.release_due(client, KEYS)
        return everywhere(client) == {"queued": 5, "parked": 2}

    eventually(released, 3, lambda: str(everywhere(client)))
    assert names(mine.turn(["q"], 7, 7, ())) == list("abcde")


def test_a_released_message_of_a_dead_owner_comes_back(
    client: redis.Redis, mine: InFlight, limits: RedisLimits
) -> None:
    """Killed between release and start: the message is in flight, and its owner's lease runs out."""
    put(client, "a")
    mine.turn(["q"], 0, 1, ())
    mine.park(1, where(SLOT, "a"))
    assert everywhere(client) == {"queued": 1}, "nothing was in the way, so it went on at once"
    assert names(mine.turn(["q"], 1, 1, ())) == ["a"]
    inflight.recover(client, KEYS, LEASE, 5)
    client.zadd(KEYS.owners, {"me": 1}, xx=True)
    assert inflight.recover(client, KEYS, LEASE, 5).returned == 1
    other = InFlight(client, KEYS, "other", LEASE)
    (again,) = other.turn(["q"], 0, 5, ()).claimed
    assert (again.queue, json.loads(again.message)["body"]) == ("q", "a")
    assert isinstance(ask(limits, "a", SLOT), Granted)


def test_a_queue_that_became_something_else_costs_no_message(
    client: redis.Redis, mine: InFlight, limits: RedisLimits
) -> None:
    ask(limits, "holder", SLOT)
    put(client, "a")
    mine.turn(["q"], 0, 1, ())
    mine.park(1, where(SLOT, "a"))
    client.set(KEYS.released("q", 0), "no list")
    limits.release("attempt-holder", [SLOT.id])
    assert parking.count(client, KEYS) == 1
    client.delete(KEYS.released("q", 0))
    parking.release_due(client, KEYS)
    eventually(lambda: parking.release_due(client, KEYS) >= 0 and not parking.count(client, KEYS), 3)
    assert names(mine.turn(["q"], 1, 1, ())) == ["a"]


def test_the_counts_of_a_line(client: redis.Redis, mine: InFlight, limits: RedisLimits) -> None:
    ask(limits, "holder", SLOT)
    put(client, "a", "b")
    mine.turn(["q"], 0, 2, ())
    mine.park(1, where(SLOT, "a"))
    mine.park(2, where(SLOT, "b"))
    assert limits.parked() == {"room": 2}
    assert limits.waiting() == {"room": 2}
    assert [(one.limit, one.queue, one.task_id) for one in parking.listed(client, KEYS, "room")] == [
        ("room", "q", "a"),
        ("room", "q", "b"),
    ]
    (one,) = parking.find(client, KEYS, "b")
    assert (one.limit, json.loads(one.message)) == ("room", {"body": "b"})
    assert parking.find(client, KEYS, "*") == parking.listed(client, KEYS, "elsewhere") == []
    found: Any = client.keys("*")
    assert all(name.startswith((b"{shop}:", b"pre.")) for name in found), "every key carries the prefix"
