"""What follows a task is published once, also where its process dies before the task is acknowledged."""

from __future__ import annotations

from celery import chain

from tests.conftest import Platform
from tests.support import doomed, far_side, inflight
from tests.support.wait import eventually, stays
from tests.support.worker import Worker

ENV = {**doomed.ENV, "ORCHESTRATOR_TEST_LEASE": "2"}


def _living(worker: Worker) -> None:
    if not worker.running:
        worker.launch()


def test_a_retry_a_deferral_and_a_successor_are_published_once(platform: Platform) -> None:
    """The task itself runs again, as it must; its one retry, its one deferral and the next of its chain run once."""
    worker = Worker(pool="solo", env=ENV)
    platform.relay(env={"ORCHESTRATOR_TEST_LEASE": "2"})
    doomed.retry_and_die.delay("r")
    doomed.retry_and_die.delay("d", "defer")
    chain(doomed.succeed_and_die.s("c"), doomed.follow.s()).delay()

    def count(key: str) -> int:
        return len(far_side.effects(key))

    def all_over() -> bool:
        _living(worker)
        reached = all(count(key) for key in ("r:1:0", "d:0:1", "c:second"))
        client = platform.broker.client
        return reached and not inflight.count(client) and not client.llen("celery")

    eventually(all_over, 90, worker.tail)
    # The processes died where they were meant to, and the messages came back.
    assert (count("r:died"), count("d:died"), count("c:died")) == (1, 1, 1), worker.tail()
    assert min(count("r:0:0"), count("d:0:0"), count("c:first")) == 2
    stays(lambda: (count("r:1:0"), count("d:0:1"), count("c:second")) == (1, 1, 1), 1.0)
    worker.stop()


def test_the_same_id_sent_again_on_purpose_retries_as_often(platform: Platform) -> None:
    """A key names what one delivery leads to, not an id; copies that were sent in one millisecond have their own."""
    far_side.record("again:died")
    copies = 30
    for _ in range(copies):
        doomed.retry_and_die.apply_async(("again",), task_id="fixed")
    worker = platform.worker(pool="solo", env=ENV)
    eventually(lambda: len(far_side.effects("again:1:0")) == copies, 60, worker.tail)
