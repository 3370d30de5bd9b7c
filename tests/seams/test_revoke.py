"""What a person calls off needs no person: it is recorded, not buried."""

from __future__ import annotations

import os
import subprocess
import sys
from uuid import uuid4

import pytest
from celery import chord
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.deadletters.models import DeadLetter
from orchestrator.monitoring import delayed, parked
from orchestrator.transport import revoked
from tests.conftest import Platform
from tests.support import far_side, limited, zoo
from tests.support.broker import Broker
from tests.support.process import ROOT
from tests.support.wait import eventually
from tests.support.worker import ROWS_AT_ONCE, platform_env


def test_a_revoked_task_is_not_buried(platform: Platform) -> None:
    """One task revoked before it started, one killed while it ran: both REVOKED, neither in the inbox."""
    worker = platform.worker(concurrency=1)
    platform.relay()
    running = zoo.end.apply_async(("soft_limit",), {"key": "running", "seconds": 120})
    waiting = zoo.end.apply_async(("succeed",), {"key": "waiting"})
    eventually(lambda: far_side.effects("running"), 60)
    get_app().control.revoke(waiting.id)
    get_app().control.revoke(running.id, terminate=True, signal="SIGKILL")
    # The one that fails last shows that the relay has caught up.
    zoo.end.apply_async(("fail",), {"key": "last"})
    eventually(DeadLetter.objects.exists, 60, worker.tail)
    status = dict(TaskResult.objects.values_list("task_id", "status"))
    assert (status[running.id], status[waiting.id]) == ("REVOKED", "REVOKED")
    assert [row.error_message for row in DeadLetter.objects.all()] == ["no such order"]
    assert not far_side.effects("waiting")


@pytest.mark.parametrize("pool", ["swarm", "solo", "prefork", "stock"])
def test_a_task_stays_called_off_for_workers_that_start_later(platform: Platform, pool: str) -> None:
    """Nobody was there to be told; nor was anybody when it was called off by its result object."""
    gone = [zoo.end.apply_async(("succeed",), {"key": f"gone-{number}"}) for number in range(3)]
    get_app().control.revoke([gone[0].id, gone[1].id])
    gone[2].revoke()
    zoo.end.apply_async(("succeed",), {"key": "stays"})
    stock = pool == "stock"
    env = {**ROWS_AT_ONCE, **({"ORCHESTRATOR_TRANSPORT": "stock"} if stock else {})}
    worker = platform.worker(pool="prefork" if stock else pool, concurrency=1, env=env)
    eventually(lambda: far_side.effects("stays"), 60, worker.tail)
    rows = TaskResult.objects.filter(task_id__in=[one.id for one in gone], status="REVOKED")
    eventually(lambda: rows.count() == 3, 30, worker.tail)
    assert not any(far_side.effects(f"gone-{number}") for number in range(3))
    assert platform.broker.client.llen("celery") == 0


@pytest.mark.parametrize("pool", ["swarm", "solo", "prefork", "stock"])
def test_tasks_stay_called_off_by_their_stamps_for_workers_that_start_later(platform: Platform, pool: str) -> None:
    """Waiting or delayed, named in Python or on a command line; a task of the same campaign that is sent later, too."""
    gone = []
    for number, options in enumerate(({"campaign": "a"}, {"campaign": ["a", "b"]}, {"batch": 7}, {"line": "x=y"})):
        one = zoo.end.s("succeed", key=f"gone-{number}")
        one.stamp(**options)
        # One that waits for its time is seen by workers on our transport alone.
        gone.append(one.apply_async(countdown=2 if number == 1 and pool != "stock" else None))
    control = get_app().control
    control.revoke_by_stamped_headers({"campaign": "a", "batch": [7, 8]})
    _from_the_command_line("revoke_by_stamped_headers", "line=x=y", "none=such")
    for number, options in enumerate(({"campaign": "b"}, {"campaign": "a"}, {})):
        one = zoo.end.s("succeed", key=f"{'gone' if number == 1 else 'stays'}-{number}")
        one.stamp(**options)
        sent = one.apply_async()
        if number == 1:
            gone.append(sent)
    stock = pool == "stock"
    env = {**ROWS_AT_ONCE, **({"ORCHESTRATOR_TRANSPORT": "stock"} if stock else {})}
    worker = platform.worker(pool="prefork" if stock else pool, concurrency=1, env=env)
    eventually(lambda: far_side.effects("stays-0") and far_side.effects("stays-2"), 60, worker.tail)
    rows = TaskResult.objects.filter(task_id__in=[one.id for one in gone], status="REVOKED")
    eventually(lambda: rows.count() == len(gone), 30, worker.tail)
    assert {effect["key"] for effect in far_side.effects()} == {"stays-0", "stays-2"}


def test_what_cannot_be_kept_is_not_said_to_be_called_off(broker: Broker) -> None:
    """The caller is told, and can do it again."""
    broker.kill()
    try:
        with pytest.raises(StoreUnavailable):
            get_app().control.revoke("some-id")
        with pytest.raises(StoreUnavailable, match="1 stamp"):
            get_app().control.revoke_by_stamped_headers({"campaign": "a"})
    finally:
        broker.start()


def _from_the_command_line(*words: str) -> None:
    """Send a command; nobody is there to answer, which Celery calls a failure."""
    command = [sys.executable, "-m", "celery", "-A", "orchestrator.celery", "control", "--timeout", "0.1", *words]
    env = {name: value for name, value in platform_env().items() if value is not None}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert b"No nodes replied" in done.stderr + done.stdout, done


def test_whoever_calls_a_task_off_calls_it_off_for_good(platform: Platform) -> None:
    """By remote control to workers that are not there, by a broadcast, and twice from the command line."""
    one, two, three, four, five = gone = [
        zoo.end.apply_async(("succeed",), {"key": f"gone-{number}"}) for number in range(5)
    ]
    control = get_app().control
    control.revoke(one.id, destination=["nobody@nowhere"])
    control.terminate(two.id)
    control.broadcast("revoke", arguments={"task_id": three.id})
    _from_the_command_line("revoke", four.id)
    _from_the_command_line("terminate", "KILL", five.id)
    zoo.end.apply_async(("succeed",), {"key": "stays"})
    worker = platform.worker(pool="swarm", concurrency=1)
    eventually(lambda: far_side.effects("stays"), 60, worker.tail)
    rows = TaskResult.objects.filter(task_id__in=[each.id for each in gone], status="REVOKED")
    eventually(lambda: rows.count() == 5, 30, worker.tail)
    assert {effect["key"] for effect in far_side.effects()} == {"stays"}


@pytest.mark.parametrize("pool", ["swarm", "prefork"])
def test_a_worker_that_was_not_told_starts_nothing_that_was_called_off(platform: Platform, pool: str) -> None:
    """Not even for a second: each claim looks."""
    worker = platform.worker(pool=pool, concurrency=1)
    ids = [str(uuid4()) for _ in range(20)]
    for number, task_id in enumerate(ids):
        with get_app().connection_for_write() as connection:
            revoked.keep(connection, [task_id])
        zoo.end.apply_async(("succeed",), {"key": f"gone-{number}"}, task_id=task_id)
    zoo.end.apply_async(("succeed",), {"key": "stays"})
    rows = TaskResult.objects.filter(task_id__in=ids, status="REVOKED")
    eventually(lambda: rows.count() == 20 and far_side.effects("stays"), 60, worker.tail)
    assert {effect["key"] for effect in far_side.effects()} == {"stays"}
    eventually(lambda: not platform.broker.client.keys("*inflight:*"), 30, worker.tail)


def test_tasks_that_wait_elsewhere_stay_called_off(platform: Platform) -> None:
    """One for its time, one for a slot, one in the hands of a worker that died."""
    env = {**limited.ENV, "ORCHESTRATOR_TEST_LEASE": "2"}
    first = platform.worker(pool="prefork", concurrency=2, env=env)
    limited.alone.delay("holder", until="never")
    eventually(lambda: far_side.effects("holder:start"), 60, first.tail)
    slot = limited.alone.delay("slot")
    late = zoo.end.apply_async(("succeed",), {"key": "late"}, countdown=5)
    eventually(lambda: parked.find(slot.id), 30, first.tail)
    held = zoo.end.apply_async(("soft_limit",), {"key": "held", "seconds": 120})
    eventually(lambda: far_side.effects("held"), 30, first.tail)
    assert delayed.count() == 1
    first.kill_group()
    gone = [slot.id, late.id, held.id]
    get_app().control.revoke(gone)
    worker = platform.worker(pool="swarm", concurrency=2, env=env)
    far_side.record("never")
    # The one for a slot has no result.
    rows = TaskResult.objects.filter(task_id__in=gone, status="REVOKED")
    eventually(lambda: rows.count() == 2 and far_side.effects("holder:end"), 60, worker.tail)
    eventually(lambda: not platform.broker.client.keys("*inflight:*"), 30, worker.tail)
    assert not parked.find(slot.id)
    assert not far_side.effects("slot:start")
    assert not far_side.effects("late")
    assert len(far_side.effects("held")) == 1


def test_a_chord_hears_that_a_member_was_called_off(platform: Platform) -> None:
    """Its body does not wait for it, nor does whoever waits for the body."""
    member = str(uuid4())
    with get_app().connection_for_write() as connection:
        revoked.keep(connection, [member])
    header = [zoo.add.s(1, 1), zoo.add.s(2, 2).set(task_id=member)]
    body = chord(header)(zoo.collect.s())
    worker = platform.worker(pool="swarm", concurrency=1)
    eventually(lambda: body.state == "FAILURE", 60, worker.tail)
    assert TaskResult.objects.get(task_id=member).status == "REVOKED"
