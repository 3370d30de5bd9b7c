"""What a real receiver of Celery's events hears of a task's life and of the worker's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chain

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran
from tests.integration.canvas.tasks import add, declared, fail, note
from tests.support.wait import eventually

WAIT = 30


class Ear(threading.Thread):
    """Receives events in a thread of its own, as Flower does."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.heard: list[dict[str, Any]] = []
        self.state = get_app().events.State()
        self.ready = threading.Event()
        self._connection = get_app().connection_for_read()
        self._receiver = get_app().events.Receiver(self._connection, handlers={"*": self._hear})
        self._receiver.on_consume_ready = lambda *_, **__: self.ready.set()

    def run(self) -> None:
        """Listen until told to stop."""
        with self._connection:
            self._receiver.capture(limit=None, timeout=None, wakeup=False)

    def _hear(self, event: dict[str, Any]) -> None:
        self.heard.append(event)
        self.state.event(event)

    def stop(self) -> None:
        """Listen no more."""
        self._receiver.should_stop = True
        self.join(10)

    def life(self, task_id: str) -> list[str]:
        """Return the kinds of events of a task, by their time."""
        events = sorted((one for one in self.heard if one.get("uuid") == task_id), key=lambda one: one["timestamp"])
        return [one["type"] for one in events]


@pytest.fixture
def ear(stack: Stack) -> Iterator[Ear]:
    """A receiver that listens."""
    made = Ear()
    made.start()
    assert made.ready.wait(30)
    # It is about to listen; it does once it hears something.
    eventually(lambda: get_app().control.heartbeat() or made.heard, message="an event")
    yield made
    made.stop()


def test_the_life_of_a_task(stack: Stack, key: str, ear: Ear) -> None:
    good = add.delay(20, 22, key=key)
    lives = ["task-sent", "task-received", "task-started", "task-succeeded"]
    eventually(lambda: sorted(ear.life(good.id)) == sorted(lives), message=lambda: str(ear.heard))
    told = {one["type"]: one for one in ear.heard if one.get("uuid") == good.id}
    assert told["task-received"]["name"] == add.name
    assert told["task-sent"]["args"] == "(20, 22)"
    assert told["task-succeeded"]["hostname"] == stack.node
    assert told["task-succeeded"]["result"] == "42"
    assert told["task-succeeded"]["runtime"] >= 0
    seen = ear.state.tasks[good.id]
    assert (seen.state, seen.name, seen.worker.hostname) == ("SUCCESS", add.name, stack.node)


def test_a_failure_and_retries(stack: Stack, key: str, ear: Ear) -> None:
    bad, again = fail.delay(key=key), declared.delay("x", key, 2)
    eventually(lambda: "task-failed" in ear.life(bad.id) and "task-succeeded" in ear.life(again.id))
    (failed,) = (one for one in ear.heard if one.get("uuid") == bad.id and one["type"] == "task-failed")
    assert "no such order" in failed["exception"]
    assert "LookupError" in failed["traceback"]
    eventually(lambda: ear.life(again.id).count("task-retried") == 2)
    assert ear.life(again.id).count("task-received") == 3
    assert ear.state.tasks[bad.id].state == "FAILURE"


def test_a_task_that_is_called_off(stack: Stack, key: str, ear: Ear) -> None:
    gone = note.apply_async(("x", key), countdown=1.1)
    get_app().control.revoke(gone.id)
    eventually(lambda: "task-revoked" in ear.life(gone.id))
    assert not ran(key)


def test_a_family(stack: Stack, key: str, ear: Ear) -> None:
    """Root and parent, as monitors draw them."""
    sent = chain(add.s(1, 1, key=key), add.s(1, key=key)).delay()
    assert sent.get(timeout=WAIT) == 3
    eventually(lambda: "task-succeeded" in ear.life(sent.id))
    last, first = ear.state.tasks[sent.id], ear.state.tasks[sent.parent.id]
    assert (last.parent_id, last.root_id, first.root_id) == (first.uuid, first.uuid, first.uuid)


def test_the_worker_shows_signs_of_life(stack: Stack, ear: Ear) -> None:
    get_app().control.heartbeat()
    eventually(lambda: any(one["type"] == "worker-heartbeat" for one in ear.heard))
    (beat, *_) = (one for one in ear.heard if one["type"] == "worker-heartbeat")
    assert beat["hostname"] == stack.node
    assert beat["sw_ident"]
    assert ear.state.workers[stack.node].alive
