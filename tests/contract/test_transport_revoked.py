"""No claim lets a task start that was called off, whoever wrote its message; on a new Valkey and an older Redis."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from orchestrator.stores.redis import revoked as store
from orchestrator.transport import revoked
from orchestrator.transport.inflight import InFlight
from orchestrator.transport.keys import Keys

KEYS = Keys("pre.", "{shop}:")


@pytest.fixture
def client(emptied: redis.Redis) -> redis.Redis:
    return emptied


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Return what a worker is told."""
    heard: list[str] = []
    revoked.refuse_with(heard.extend, lambda _: None)
    yield heard
    revoked.refuse_with(lambda _: None, lambda _: None)


def modern(task_id: str, **headers: Any) -> str:
    """Return a message as Celery writes it; its body quotes another one."""
    body = json.dumps([[{"id": "quoted"}], {}, {}])
    return json.dumps(
        {
            "body": body,
            "headers": {"lang": "py", "task": "x", **headers, "id": task_id, "root_id": "root", "parent_id": "parent"},
            "properties": {"correlation_id": task_id, "delivery_info": {"exchange": "", "routing_key": "q"}},
        }
    )


def old(task_id: str) -> str:
    """Return a message of Celery's first protocol."""
    body = base64.b64encode(json.dumps({"id": task_id, "task": "x"}).encode()).decode()
    return json.dumps({"body": body, "headers": {}, "properties": {"correlation_id": task_id}})


def compact(task_id: str) -> str:
    return json.dumps(json.loads(modern(task_id)), separators=(",", ":"))


def unescaped(task_id: str) -> str:
    return json.dumps(json.loads(modern(task_id)), ensure_ascii=False)


def nested(task_id: str) -> str:
    """Return a message in which another ``id`` stands before its own."""
    return modern(task_id, order={"id": "order-7"})


@pytest.mark.parametrize("write", [modern, old, compact, unescaped, nested])
@pytest.mark.parametrize("task_id", ["3c0a8a5e-0d1c-4b52-9a3e-7d1fd4c1a001", "Bestellung für Ä", 'says "no"'])
def test_a_claim_tells_which_of_its_tasks_were_called_off(
    client: redis.Redis, told: list[str], write: Any, task_id: str
) -> None:
    store.keep(client, KEYS.ours, [task_id, "somebody-else"])
    for message in (write("stays"), write(task_id), write("stays too")):
        client.lpush("pre.q", message)
    turn = InFlight(client, KEYS, "me", 2.0).turn(["q"], 0, 5, ())
    assert len(turn.claimed) == 3
    assert set(told) == {task_id}


def test_ids_that_are_quoted_in_a_message_call_nothing_off(client: redis.Redis, told: list[str]) -> None:
    store.keep(client, KEYS.ours, ["quoted", "root", "parent", "a", "task"])
    client.lpush("pre.q", modern("task-1"))
    InFlight(client, KEYS, "me", 2.0).turn(["q"], 0, 5, ())
    assert told == []


def test_ids_are_kept_for_as_long_as_messages_may_wait(client: redis.Redis) -> None:
    store.keep(client, KEYS.ours, ["soon"])
    left: Any = client.pttl(KEYS.ours + store.IDS)
    assert 0.9 * store.KEPT < left / 1000 <= store.KEPT
    year = 365 * 24 * 3600
    client.zadd(KEYS.delayed, {"late:1": (time.time() + year) * 1000})
    store.keep(client, KEYS.ours, ["late"])
    left = client.pttl(KEYS.ours + store.IDS)
    assert left / 1000 > year
    # Whoever was kept before does not stay for that.
    scores: Any = dict(client.zrange(KEYS.ours + store.IDS, 0, -1, withscores=True))
    assert scores[b"late"] - scores[b"soon"] > (year - 60) * 1000


def test_what_is_over_is_forgotten_and_the_number_is_bounded(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST", 3)
    client.zadd(KEYS.ours + store.IDS, {"over": 1})
    store.keep(client, KEYS.ours, ["a", "b"])
    assert client.zrange(KEYS.ours + store.IDS, 0, -1) == [b"a", b"b"]
    client.zadd(KEYS.delayed, {"late:1": (time.time() + store.KEPT) * 1000})
    store.keep(client, KEYS.ours, ["c", "d"])
    assert client.zrange(KEYS.ours + store.IDS, 0, -1) == [b"b", b"c", b"d"]


def test_stamps_are_told_once_with_the_next_messages(client: redis.Redis) -> None:
    """Also where a server that lost them got others meanwhile, as many."""
    heard: list[Any] = []
    revoked.refuse_with(lambda _: None, lambda stamps: heard.append(sorted(stamps)))
    mine = InFlight(client, KEYS, "me", 2.0)

    def claim(serial: int) -> list[Any]:
        heard.clear()
        client.lpush("pre.q", modern("task-1"))
        assert len(mine.turn(["q"], serial, 1, ()).claimed) == 1
        return list(heard)

    try:
        assert claim(0) == []
        store.keep_stamps(client, KEYS.ours, [("campaign", "a"), ("batch", 7)])
        assert mine.turn(["q"], 1, 1, ()).claimed == []
        assert heard == []
        assert claim(2) == [[("batch", 7), ("campaign", "a")]]
        assert claim(3) == []
        store.keep_stamps(client, KEYS.ours, [("campaign", "b")])
        assert claim(4) == [[("batch", 7), ("campaign", "a"), ("campaign", "b")]]
        client.flushall()
        for campaign in "cd":
            store.keep_stamps(client, KEYS.ours, [("campaign", campaign)])
        assert claim(5) == [[("campaign", "c"), ("campaign", "d")]]
    finally:
        revoked.refuse_with(lambda _: None, lambda _: None)


@pytest.mark.parametrize("key", [store.STAMPS, store.STAMPS_VERSION, store.IDS])
def test_a_key_of_a_wrong_type_holds_no_claim_up(client: redis.Redis, told: list[str], key: str) -> None:
    store.keep(client, KEYS.ours, ["b"])
    store.keep_stamps(client, KEYS.ours, [("campaign", "b")])
    client.delete(KEYS.ours + key)
    client.hset(KEYS.ours + key, "a", "?")
    client.lpush("pre.q", modern("a"))
    assert len(InFlight(client, KEYS, "me", 2.0).turn(["q"], 0, 5, ()).claimed) == 1
    assert told == []
