"""Celery's remote control: what a worker answers, what it does, and what a swarm refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import add, hold, note
from tests.support import far_side
from tests.support.wait import eventually
from tests.support.worker import Worker

WAIT = 30


def ask(stack: Stack, question: str, *args: Any, **options: Any) -> Any:
    """Return the worker's answer."""
    answers = getattr(get_app().control.inspect([stack.node], timeout=10), question)(*args, **options)
    assert list(answers or ()) == [stack.node], f"{question}: {answers}"
    return answers[stack.node]


def tell(stack: Stack, command: str, *args: Any, **options: Any) -> Any:
    """Return what the worker says to a command."""
    answers = getattr(get_app().control, command)(*args, destination=[stack.node], reply=True, timeout=10, **options)
    (answer,) = (one[stack.node] for one in answers)
    return answer


def test_ping(stack: Stack) -> None:
    assert ask(stack, "ping") == {"ok": "pong"}
    assert get_app().control.ping(timeout=10, limit=1) == [{stack.node: {"ok": "pong"}}]


def test_what_it_knows_of_itself(stack: Stack) -> None:
    assert add.name in ask(stack, "registered")
    stats = ask(stack, "stats")
    assert stats["pool"]["max-concurrency"] == 2
    assert len(stats["pool"]["processes"]) == 2
    assert set(stats["pool"]["processes"]) == set(stack.worker.pool_children())
    assert (stats["pid"], stats["broker"]["transport"]) == (
        stack.worker.pid,
        "amqp" if stack.name == "rabbitmq" else "redis",
    )
    assert [queue["name"] for queue in ask(stack, "active_queues")] == ["celery"]
    assert ask(stack, "conf")["task_acks_late"] is True
    assert "celery" in ask(stack, "report")["ok"]
    assert ask(stack, "clock")["clock"] > 0


def test_it_counts_what_it_has_run(stack: Stack, key: str) -> None:
    before = ask(stack, "stats")["total"].get(add.name, 0)
    for number in range(3):
        add.delay(number, number, key=key).get(timeout=WAIT)
    eventually(lambda: ask(stack, "stats")["total"].get(add.name, 0) == before + 3)


def test_what_runs_and_what_waits(stack: Stack, key: str) -> None:
    busy = [hold.delay(f"{key}:{number}") for number in range(2)]
    eventually(lambda: all(ran(f"{key}:{number}") for number in range(2)))
    active = {one["id"]: one for one in ask(stack, "active")}
    assert set(active) == {one.id for one in busy}
    assert {one["name"] for one in active.values()} == {hold.name}
    assert {one["worker_pid"] for one in active.values()} == {
        effect["pid"] for effect in ran(f"{key}:0") + ran(f"{key}:1")
    }
    assert all(one["time_start"] for one in active.values())
    assert ask(stack, "query_task", [busy[0].id])[busy[0].id][0] == "active"
    assert ask(stack, "query_task", ["nobody"]) == {}
    soon = note.apply_async(("soon", key), countdown=3600)
    # What is delayed lies at the broker, not in a worker.
    assert (ask(stack, "reserved"), ask(stack, "scheduled")) == ([], [])
    get_app().control.revoke(soon.id)
    assert soon.id in ask(stack, "revoked")
    for number in range(2):
        far_side.record(f"{key}:{number}:go")
    assert [one.get(timeout=WAIT) for one in busy] == [f"{key}:0", f"{key}:1"]
    eventually(lambda: ask(stack, "active") == [])


def test_a_rate_limit_of_celerys_own(stack: Stack, key: str) -> None:
    """Each worker process keeps it for itself; taken back, everything runs."""
    assert "ok" in tell(stack, "rate_limit", add.name, "60/m")
    sent = [add.delay(number, 0, key=key) for number in range(6)]
    eventually(lambda: ran(key))
    assert len(ran(key)) < 6
    assert "ok" in tell(stack, "rate_limit", add.name, None)
    assert [one.get(timeout=WAIT) for one in sent] == list(range(6))
    assert sorted(values(key)) == list(range(6))  # type: ignore[type-var]


def test_a_rate_limit_of_an_unknown_task_or_of_nonsense(stack: Stack) -> None:
    answer = tell(stack, "rate_limit", add.name, "many/fortnight")
    assert "error" in answer or "ok" in answer


def test_a_time_limit(stack: Stack, key: str) -> None:
    assert "ok" in tell(stack, "time_limit", hold.name, hard=60, soft=50)
    far_side.record(f"{key}:go")
    assert hold.delay(key).get(timeout=WAIT) == key


def test_the_size_of_the_pool(stack: Stack, key: str) -> None:
    """Prefork grows and shrinks; a swarm says that it does not, and why, and goes on."""
    if stack.name == "swarm":
        for command in ("pool_grow", "pool_shrink", "autoscale"):
            arguments = (4, 1) if command == "autoscale" else (1,)
            assert "as many processes as it was started with" in tell(stack, command, *arguments)["error"]
        assert ask(stack, "stats")["pool"]["max-concurrency"] == 2
    else:
        assert tell(stack, "pool_grow", 1) == {"ok": "pool will grow"}
        eventually(lambda: len(ask(stack, "stats")["pool"]["processes"]) == 3)
        assert tell(stack, "pool_shrink", 1) == {"ok": "pool will shrink"}
        eventually(lambda: len(ask(stack, "stats")["pool"]["processes"]) == 2)
    assert note.delay("on", key).get(timeout=WAIT) == "on"


def test_an_unknown_command_is_answered(stack: Stack) -> None:
    (answer,) = get_app().control.broadcast("make_coffee", destination=[stack.node], reply=True, timeout=10)
    assert "make_coffee" in str(answer[stack.node]["error"])


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_shutdown(stack: Stack, key: str, start: Callable[[Worker], Worker], busy: bool) -> None:
    """One worker of two, which ends what it has begun; the other goes on."""
    queue = f"apart-{key}"
    other = start(stack.another(queues=[queue], concurrency=1))
    node = f"{other.name}@test"
    assert get_app().control.ping([node], timeout=10) == [{node: {"ok": "pong"}}]
    sent = hold.apply_async((key,), queue=queue) if busy else None
    eventually(lambda: not busy or ran(key))
    get_app().control.shutdown([node])
    if sent is not None:
        other.wait_for_log("Got shutdown from remote")
        assert other.running
        far_side.record(f"{key}:go")
        assert sent.get(timeout=WAIT) == key
        assert len(ran(key)) == 1
    assert other.wait(30) == 0
    assert note.delay("on", f"{key}:on").get(timeout=WAIT) == "on"
