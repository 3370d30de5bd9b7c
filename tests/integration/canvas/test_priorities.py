"""Higher numbers first, on every broker that knows priorities, and queues that are taken up and left while running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kombu import Queue

from orchestrator.celery import get_app
from tests.integration.canvas.conftest import Stack, ran, values
from tests.integration.canvas.tasks import hold, note
from tests.support import far_side
from tests.support.wait import eventually, stays

WAIT = 30
#: RabbitMQ has priorities in classic queues that say so (in quorum queues two of them, from 4.0 on).
RANKED = {"x-max-priority": 10}


@pytest.fixture
def queue(stack: Stack, key: str) -> Iterator[str]:
    """A queue with priorities that nobody takes anything from."""
    name = f"ranked-{key}"
    get_app().amqp.queues.add(Queue(name, routing_key=name, queue_arguments=RANKED, exchange=""))
    yield name
    get_app().control.cancel_consumer(name)


def consume(queue: str) -> None:
    """Let the worker take from the queue."""
    options = {"queue_arguments": RANKED}
    assert get_app().control.add_consumer(
        queue, exchange="", routing_key=queue, options=options, reply=True, timeout=10, limit=1
    )


def test_higher_priorities_first_and_equals_in_order(stack: Stack, key: str, queue: str) -> None:
    """With one process free."""
    busy = hold.delay(f"{key}:busy")
    eventually(lambda: ran(f"{key}:busy"))
    for number in range(3):
        for priority in (0, 9, 3, 6):
            note.apply_async(([priority, number], key), queue=queue, priority=priority)
    stays(lambda: not ran(key), 0.2)
    consume(queue)
    eventually(lambda: len(ran(key)) == 12)
    far_side.record(f"{key}:busy:go")
    assert busy.get(timeout=WAIT)
    seen = values(key)
    # A broker hands out the first message, of whatever rank is there, before it has seen the last.
    assert seen == [[priority, number] for priority in (9, 6, 3, 0) for number in range(3)]


def test_a_queue_is_taken_up_and_left(stack: Stack, key: str, queue: str) -> None:
    control = get_app().control
    waiting = note.apply_async(("first", key), queue=queue)
    stays(lambda: not ran(key), 0.3)
    consume(queue)
    assert waiting.get(timeout=WAIT) == "first"
    (queues,) = control.inspect([stack.node], timeout=10).active_queues().values()
    assert queue in {one["name"] for one in queues}
    assert control.cancel_consumer(queue, reply=True, timeout=10, limit=1)
    eventually(lambda: queue not in {one["name"] for one in control.inspect([stack.node]).active_queues()[stack.node]})
    note.apply_async(("second", key), queue=queue)
    assert note.delay("other", f"{key}:other").get(timeout=WAIT) == "other"
    stays(lambda: values(key) == ["first"], 0.5)
