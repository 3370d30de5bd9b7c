"""Delayed messages wait in the broker, are counted and listed there, and run once at their time."""

from __future__ import annotations

import time

from django.core.management import call_command

from orchestrator.celery import get_app
from orchestrator.monitoring import delayed, queues
from tests.conftest import Platform
from tests.support import far_side, inflight, labour
from tests.support.wait import eventually, stays
from tests.support.zoo import flaky


def test_delayed_tasks_wait_in_the_broker_and_run_once_at_their_time(platform: Platform) -> None:
    """No worker holds them; a task without a delay passes them."""
    worker = platform.worker(concurrency=1, env=labour.ENV)
    begun = time.time()
    for number in range(20):
        labour.work.apply_async((f"delayed-{number}",), countdown=5)
    labour.work.delay("now")
    eventually(lambda: labour.ends("now"), 60, worker.tail)
    assert time.time() < begun + 5, "the machine is too slow to tell"
    eventually(lambda: inflight.count(platform.broker.client) == 0, 2, worker.tail)
    assert delayed.count() == queues.waiting_for_their_time(5.0) == 20
    eventually(lambda: all(labour.ends(f"delayed-{number}") for number in range(20)), 60, worker.tail)
    starts = [far_side.effects(f"delayed-{number}:start") for number in range(20)]
    assert [len(one) for one in starts] == [1] * 20
    assert all(one[0]["at"] >= begun + 5 for one in starts)
    assert delayed.count() == 0


def test_a_delayed_task_can_be_seen_cancelled_and_run_now(platform: Platform) -> None:
    """By its task id, from any process."""
    kept = labour.work.apply_async(("kept",), countdown=600)
    cancelled = labour.work.apply_async(("cancelled",), countdown=300, queue="celery")
    rows = delayed.listed()
    assert [(row.task_id, row.task, row.queue) for row in rows] == [
        (cancelled.id, labour.work.name, "celery"),
        (kept.id, labour.work.name, "celery"),
    ]
    assert (delayed.cancel(cancelled.id), delayed.cancel(cancelled.id)) == (1, 0)
    assert (delayed.run_now(kept.id), delayed.count()) == (1, 0)
    assert platform.broker.client.llen("celery") == 1


def test_a_relay_moves_what_is_due_while_no_worker_is_there(platform: Platform) -> None:
    """So the counts tell the truth, whoever is away."""
    labour.work.apply_async(("due",), countdown=1.5)
    assert delayed.count() == 1
    eventually(lambda: time.time() and delayed.listed() and delayed.listed()[0].due < time.time())
    call_command("relay", "--once")
    assert (delayed.count(), platform.broker.client.llen("celery")) == (0, 1)


def test_a_near_eta_is_left_to_the_worker(platform: Platform) -> None:
    """What is due within a second takes no detour."""
    labour.work.apply_async(("near",), countdown=0.5)
    assert (delayed.count(), platform.broker.client.llen("celery")) == (0, 1)


def test_retries_with_a_delay_run_as_often_as_declared(platform: Platform) -> None:
    """They pass through the broker's delay as well."""
    worker = platform.worker(concurrency=1)
    get_app().send_task(flaky.name, ("later",), {"good_after": 1}, countdown=1.2)
    eventually(lambda: len(far_side.effects("later")) == 2, 60, worker.tail)
    stays(lambda: len(far_side.effects("later")) == 2, 1.0)


def test_a_paused_queue_waits_and_goes_on(platform: Platform) -> None:
    """Pausing acts on all workers at once, and only on that queue."""
    worker = platform.worker(concurrency=1, queues=["celery", "other"], env=labour.ENV)
    queues.pause("celery", 5.0)
    assert queues.paused(5.0) == ["celery"]
    labour.work.delay("held")
    labour.work.apply_async(("free",), queue="other")
    eventually(lambda: labour.ends("free"), 60, worker.tail)
    stays(lambda: not labour.starts("held"), 1.5)
    queues.resume("celery", 5.0)
    eventually(lambda: labour.ends("held"), 10, worker.tail)
    assert queues.paused(5.0) == []
