"""The promises of the in-flight hash, on the newest Valkey and on an older Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from orchestrator.transport import delayed, inflight, sender, setback
from orchestrator.transport.inflight import InFlight
from orchestrator.transport.keys import MARK, Keys
from orchestrator.transport.setback import Memory
from tests.support.proxy import Proxy
from tests.support.wait import eventually

KEYS = Keys("pre.", "{shop}:")
LEASE = 2.0
MOST = 3


@pytest.fixture
def client(emptied: redis.Redis) -> redis.Redis:
    return emptied


@pytest.fixture
def owner(client: redis.Redis) -> Callable[[str], InFlight]:
    """Make owners by name."""
    return lambda name: InFlight(client, KEYS, name, LEASE)


def put(client: redis.Redis, queue: str, *names: str, step: int = 0) -> None:
    """Put messages into a queue as kombu does."""
    for name in names:
        client.lpush(KEYS.ready(queue, step), json.dumps({"body": name}))


def names(claimed: Any) -> list[str]:
    return [json.loads(one.message)["body"] for one in claimed]


def waiting(client: redis.Redis, queue: str, step: int = 0) -> list[str]:
    """Return what waits, in the order in which it will be taken."""
    found: Any = client.lrange(KEYS.ready(queue, step), 0, -1)
    return [json.loads(message)["body"] for message in reversed(found)]


def expire(client: redis.Redis, *owners: str) -> inflight.Sweep:
    """Let leases run out, and sweep."""
    inflight.recover(client, KEYS, LEASE, MOST)
    for name in owners:
        client.zadd(KEYS.owners, {name: 1}, xx=True)
    return inflight.recover(client, KEYS, LEASE, MOST)


def test_a_claim_moves_messages_in_order_and_by_priority(client: redis.Redis, owner: Callable[[str], InFlight]) -> None:
    put(client, "a", "a1", "a2")
    put(client, "b", "b1")
    put(client, "b", "urgent", step=9)
    mine = owner("me")
    turn = mine.turn(["a", "b"], 0, 3, ())
    assert names(turn.claimed) == ["urgent", "a1", "a2"]
    assert [one.queue for one in turn.claimed] == ["b", "a", "a"]
    assert [one.serial for one in turn.claimed] == [1, 2, 3]
    assert turn.more
    assert (waiting(client, "b"), inflight.count(client, KEYS)) == (["b1"], 3)
    rest = mine.turn(["a", "b"], 3, 5, [1, 2])
    assert (names(rest.claimed), rest.acknowledged, rest.more) == (["b1"], 2, False)
    assert inflight.count(client, KEYS) == 2


def test_only_the_owner_can_acknowledge_and_only_once(client: redis.Redis, owner: Callable[[str], InFlight]) -> None:
    put(client, "a", "a1")
    mine, other = owner("me"), owner("other")
    mine.turn(["a"], 0, 1, ())
    assert other.turn([], 0, 0, [1]).acknowledged == 0
    assert mine.turn([], 1, 0, [1]).acknowledged == 1
    assert mine.turn([], 1, 0, [1]).acknowledged == 0


def test_a_stale_acknowledgement_does_not_touch_the_next_delivery(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    put(client, "a", "a1")
    mine, other = owner("me"), owner("other")
    mine.turn(["a"], 0, 1, ())
    assert expire(client, "me").returned == 1
    assert names(other.turn(["a"], 0, 1, ()).claimed) == ["a1"]
    assert mine.turn([], 1, 0, [1]).acknowledged == 0
    assert mine.give_back([1]) == 0
    assert inflight.count(client, KEYS) == 1


def test_what_is_given_back_comes_first_again_and_uncharged(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    put(client, "a", "a1", "a2", "a3")
    mine = owner("me")
    mine.turn(["a"], 0, 2, ())
    assert mine.give_back([2, 1]) == 2
    assert waiting(client, "a") == ["a1", "a2", "a3"]
    assert MARK not in client.lindex(KEYS.ready("a", 0), -1)


def test_messages_of_a_dead_owner_come_back_alone_and_are_charged_only_alone(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    put(client, "a", "a1", "a2", "a3")
    owner("first").turn(["a"], 0, 2, ())
    assert expire(client, "first") == inflight.Sweep(False, False, 1, 2, 0)
    assert waiting(client, "a") == ["a1", "a2", "a3"]
    second = owner("second").turn(["a"], 0, 10, ())
    assert names(second.claimed) == ["a1"]
    assert second.claimed[0].message.startswith(MARK + b"0000")
    expire(client, "second")
    third = owner("third").turn(["a"], 0, 10, ())
    assert third.claimed[0].message.startswith(MARK + b"0001")


def test_what_kills_its_owner_too_often_is_set_aside_with_the_exact_message(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    put(client, "a", "killer")
    for death in range(MOST):
        owner(f"owner-{death}").turn(["a"], 0, 5, ())
        swept = expire(client, f"owner-{death}")
    assert swept == inflight.Sweep(False, False, 1, 0, 1)
    [found] = inflight.aside(client, KEYS)
    assert (found.reason, found.deliveries, found.queue) == ("poison", MOST, "a")
    assert found.message == b'{"body": "killer"}'
    inflight.forget_aside(client, KEYS, found)
    assert not inflight.aside(client, KEYS)
    assert not waiting(client, "a")


def test_after_an_outage_everybody_gets_another_lease(client: redis.Redis, owner: Callable[[str], InFlight]) -> None:
    put(client, "a", "a1")
    owner("me").turn(["a"], 0, 1, ())
    inflight.recover(client, KEYS, LEASE, MOST)
    client.zadd(KEYS.owners, {"me": 1})
    client.hset(KEYS.sweeps, "at", 1)
    assert inflight.recover(client, KEYS, LEASE, MOST).extended
    assert inflight.recover(client, KEYS, LEASE, MOST).owners == 0
    eventually(lambda: inflight.recover(client, KEYS, LEASE, MOST).returned == 1, 2 * LEASE + 5)


def test_a_broker_with_an_older_state_is_noticed_by_who_remembers(client: redis.Redis) -> None:
    """Once for each loss, however many notice it; whoever knows most tells how much is lost at least."""

    def sweep(memory: Memory) -> bool:
        return inflight.recover(client, KEYS, LEASE, MOST, memory).forgot

    first, second = Memory(), Memory()
    assert not any(sweep(memory) for memory in (first, second))
    older, since = client.hgetall(KEYS.sweeps), second.at
    assert not any(sweep(memory) for memory in (first, second))
    # As another server process reads it from its file.
    older[b"server"] = b"another"
    client.delete(KEYS.sweeps)
    client.hset(KEYS.sweeps, mapping=older)
    assert setback.last(client, KEYS) is None
    # Those who know nothing of the past hide nothing.
    assert not any(sweep(Memory()) for _ in range(5))
    known = (first.at, second.at)
    for memory, told in zip((first, second), known, strict=True):
        assert sweep(memory)
        found = setback.last(client, KEYS)
        assert found is not None
        assert (found.since, found.known) == (since / 1000, told / 1000)
    assert not any(sweep(memory) for memory in (first, second, Memory()))
    client.flushall()
    assert sweep(second)
    emptied = setback.last(client, KEYS)
    assert emptied is not None
    assert emptied.as_json() == {"since": None, "noticed": emptied.noticed, "seconds": None}
    assert "everything" in str(emptied)


def test_a_restart_that_loses_nothing_is_no_setback(client: redis.Redis) -> None:
    """The server has another name, and all that anybody knows of."""
    memory = Memory()
    inflight.recover(client, KEYS, LEASE, MOST, memory)
    client.hset(KEYS.sweeps, "server", "another")
    assert not inflight.recover(client, KEYS, LEASE, MOST, memory).forgot
    assert setback.last(client, KEYS) is None


def test_a_renewed_lease_holds_and_a_lost_one_is_told(client: redis.Redis, owner: Callable[[str], InFlight]) -> None:
    put(client, "a", "a1")
    mine = owner("me")
    mine.turn(["a"], 0, 1, ())
    inflight.recover(client, KEYS, LEASE, MOST)
    client.zadd(KEYS.owners, {"me": 1})
    assert mine.renew() == 1
    assert inflight.recover(client, KEYS, LEASE, MOST).owners == 0
    expire(client, "me")
    assert mine.renew() == -1


def test_a_paused_queue_gives_nothing(client: redis.Redis, owner: Callable[[str], InFlight]) -> None:
    put(client, "a", "a1")
    put(client, "b", "b1")
    client.sadd(KEYS.paused, "a")
    assert names(owner("me").turn(["a", "b"], 0, 5, ()).claimed) == ["b1"]
    client.srem(KEYS.paused, "a")
    assert names(owner("me").turn(["a", "b"], 5, 5, ()).claimed) == ["a1"]


def test_a_key_of_the_wrong_type_is_named_and_stops_nobody(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    client.set(KEYS.ready("a", 0), "not a list")
    put(client, "b", "b1")
    turn = owner("me").turn(["a", "b"], 0, 5, ())
    assert (names(turn.claimed), turn.broken) == (["b1"], KEYS.ready("a", 0))


def test_a_claim_that_cannot_be_written_down_takes_nothing(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    put(client, "a", "a1", "a2")
    client.set(KEYS.inflight("me"), "in the way")
    with pytest.raises(redis.ResponseError):
        owner("me").turn(["a"], 0, 5, ())
    assert waiting(client, "a") == ["a1", "a2"]


def test_a_claim_that_is_sent_again_takes_nothing(client: redis.Redis, owner: Callable[[str], InFlight]) -> None:
    put(client, "a", "a1", "a2")
    owner("me").turn(["a"], 0, 1, ())
    with pytest.raises(redis.ResponseError, match="carried out before"):
        owner("me").turn(["a"], 0, 1, ())
    assert (waiting(client, "a"), inflight.count(client, KEYS)) == (["a2"], 1)


def test_scripts_are_loaded_again_after_the_server_forgot_them(
    client: redis.Redis, owner: Callable[[str], InFlight]
) -> None:
    put(client, "a", "a1", "a2")
    owner("me").turn(["a"], 0, 1, ())
    client.script_flush()
    assert names(owner("me").turn(["a"], 1, 1, ()).claimed) == ["a2"]


def test_delayed_messages_move_when_they_are_due(client: redis.Redis) -> None:
    times = {"soon:1": 150, "later:2": 60_000}
    for name, left in times.items():
        message = json.dumps({"body": name, "headers": {"id": name[:-2]}})
        keys, args = sender.delaying(KEYS, sender.Sender(KEYS).call(), name, left, KEYS.ready("a", 3), message)
        sender.delay_script(client, keys=keys, args=args)
    moved, left = delayed.move_due(client, KEYS)
    assert (moved, 0 < left <= 0.15) == (0, True)
    eventually(lambda: delayed.move_due(client, KEYS)[0] == 1, 10)
    assert waiting(client, "a", 3) == ["soon:1"]
    [later] = delayed.listed(client, KEYS)
    assert (later.name, later.queue, later.task_id) == ("later:2", "a", "later")
    assert abs(later.due - time.time() - 60) < 15
    assert (delayed.count(client, KEYS), delayed.find(client, KEYS, "later")) == (1, ["later:2"])
    assert delayed.run_now(client, KEYS, "later:2")
    assert waiting(client, "a", 3) == ["soon:1", "later:2"]
    assert not delayed.run_now(client, KEYS, "later:2")
    assert delayed.cancel(client, KEYS, "later:2") is None


def test_of_connections_that_a_network_forgot_only_one_is_waited_for(server: redis.Redis) -> None:
    """The others are closed when the first gives no answer: each would cost a part of the lease."""
    with Proxy(server.get_connection_kwargs()["port"]) as proxy:
        pool = redis.ConnectionPool(port=proxy.port, socket_timeout=1.0)
        link = redis.Redis(connection_pool=pool)
        idle = [pool.get_connection() for _ in range(5)]
        for connection in idle:
            pool.release(connection)
        proxy.cut()
        proxy.heal(late=False)
        with pytest.raises(redis.TimeoutError) as caught:
            link.execute_command("PING")
        inflight.hang_up(link, caught.value)
        assert link.ping()
        assert [connection.is_connected for connection in idle].count(True) == 1
