"""The swarm: what its supervisor does for children that are busy, stuck, killed or told to end."""

from __future__ import annotations

import json
import signal
import time

import psutil

from orchestrator.celery import get_app
from orchestrator.deadletters.models import DeadLetter
from orchestrator.flower.access import Right
from tests.conftest import Platform
from tests.support import environment, far_side, inflight, labour
from tests.support.people import PASSWORD, person
from tests.support.visitor import Visitor
from tests.support.wait import eventually
from tests.support.worker import Worker
from tests.support.zoo import end

LEASE = 2.0
ENV = {**labour.ENV, "ORCHESTRATOR_TEST_LEASE": str(LEASE)}


def swarm(platform: Platform, concurrency: int = 1, *options: str) -> Worker:
    """Start a swarm."""
    worker: Worker = platform.worker(pool="swarm", concurrency=concurrency, env=ENV, options=options)
    return worker


def running(*keys: str) -> None:
    """Wait until tasks have started."""
    eventually(lambda: all(labour.starts(key) for key in keys), 20, lambda: f"{keys} started")


def ended(*keys: str, timeout: float = 30.0) -> None:
    """Wait until tasks have ended."""
    eventually(lambda: all(labour.ends(key) for key in keys), timeout, lambda: f"{keys} ended")


def idle(platform: Platform) -> None:
    """Wait until nothing is queued and nothing in flight."""
    client = platform.broker.client
    eventually(lambda: not client.llen("celery") and not inflight.count(client), 20, "nothing is left")


def test_a_task_that_holds_the_interpreter_runs_once(platform: Platform) -> None:
    """C code that keeps the GIL for longer than the lease: the supervisor renews, so nobody else starts it."""
    swarm(platform)
    labour.hold_the_interpreter.delay("stuck", 1.75 * LEASE)
    running("stuck")
    other = swarm(platform)
    ended("stuck")
    idle(platform)
    assert labour.starts("stuck") == 1
    assert "gave no sign of life" not in other.log


def test_neighbours_of_a_killed_task_run_at_once_and_nothing_is_repeated(platform: Platform) -> None:
    """What a killed child had finished is acknowledged, what it had claimed is back; only the killer is buried."""
    worker = swarm(platform)
    platform.relay()
    keys = [f"before-{number}" for number in range(30)]
    for key in keys:
        labour.work.delay(key)
    labour.kill_own_process.delay("killer")
    later = [f"after-{number}" for number in range(30)]
    for key in later:
        labour.work.delay(key)
    ended(*keys, *later, timeout=15)
    eventually(lambda: DeadLetter.objects.count() == 1, 20, worker.tail)
    assert DeadLetter.objects.get().reason == "worker_lost"
    idle(platform)
    assert {labour.starts(key) for key in (*keys, *later)} == {1}
    assert len(far_side.effects("killer")) == 1


def test_a_message_has_one_letter_also_if_its_process_dies_right_after_it(platform: Platform) -> None:
    """The letter is safe, the acknowledgement waits for the results around it: so it may run, and fail, once more."""
    worker = platform.worker(pool="swarm", concurrency=1, env={"ORCHESTRATOR_TEST_RESULTS_WAITING": None})
    platform.relay()
    sent: list[str] = []
    for turn in range(30):
        # All of it is there before the first claim.
        worker.kill_group(signal.SIGSTOP)
        for number in range(32):
            end.apply_async(("succeed",), {"key": f"succeeds-{number}"})
        keys = [f"fails-{turn}-{number}" for number in range(turn % 8 + 1)]
        sent += [end.apply_async(("fail",), {"key": key}).id for key in keys]
        sent.append(end.delay("die", key=f"killer-{turn}").id)
        worker.kill_group(signal.SIGCONT)
        # The one that fails last shows that the relay has caught up.
        sent.append(end.apply_async(("fail",), {"key": "last"}).id)
        eventually(DeadLetter.objects.filter(task_id=sent[-1]).exists, 20, worker.tail)
        idle(platform)
        if any(len(far_side.effects(key)) > 1 for key in keys):
            break
    else:
        raise AssertionError("nothing was repeated")
    assert sorted(DeadLetter.objects.values_list("task_id", flat=True)) == sorted(sent)


def test_a_hard_limit_ends_a_task_that_holds_the_interpreter(platform: Platform) -> None:
    """No exception can reach it; it is buried as timed out, and its neighbour runs."""
    worker = swarm(platform)
    platform.relay()
    task_id = labour.hold_the_interpreter.apply_async(("stuck", 30.0), time_limit=1).id
    labour.work.delay("neighbour")
    ended("neighbour", timeout=15)
    eventually(lambda: DeadLetter.objects.count() == 1, 20, worker.tail)
    row = DeadLetter.objects.get()
    assert (row.task_id, row.reason, row.verdict) == (task_id, "time_limit", "timed_out")
    idle(platform)
    assert labour.starts("stuck") == 1


def test_remote_control_answers_while_every_child_is_busy(platform: Platform) -> None:
    """ping, active and stats within a second; a revoked task ends; shutdown lets the rest finish."""
    worker = swarm(platform, 2)
    results = [end.delay("soft_limit", key=key, seconds=60) for key in ("one", "two")]
    eventually(lambda: len(far_side.counts()) == 2, 20, worker.tail)
    control = get_app().control
    inspect = control.inspect([f"{worker.name}@test"], timeout=5, limit=1)
    for ask in (inspect.ping, inspect.active, inspect.stats):
        began = time.monotonic()
        (answer,) = (ask() or {}).values()
        assert time.monotonic() - began < 1
        assert answer
    (active,) = inspect.active().values()
    assert {task["id"] for task in active} == {result.id for result in results}
    assert sorted(task["worker_pid"] for task in active) == sorted(worker.pool_children())
    control.revoke(results[0].id, terminate=True)
    eventually(lambda: len(*inspect.active().values()) == 1, 15, worker.tail)
    eventually(lambda: results[0].state == "REVOKED", 15, worker.tail)
    control.revoke(results[1].id, terminate=True, signal="KILL")
    idle(platform)
    control.shutdown()
    assert worker.wait() == 0


def test_what_is_not_finished_within_the_grace_runs_elsewhere(platform: Platform) -> None:
    """A short task ends, a long one goes back to the front of its queue, uncharged."""
    worker = swarm(platform, 2, "--grace", "1.5")
    labour.work.delay("short", 1)
    labour.work.delay("long", 30)
    running("short", "long")
    labour.work.delay("waiting")
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 1.5 + 2
    ended("short")
    messages = platform.broker.client.lrange("celery", 0, -1)
    assert len(messages) == 2
    # The front is the right end; a charge would stand at the beginning of the message.
    assert b"long" in messages[-1]
    assert not any(message.startswith(b'{"orchestrator-delivery"') for message in messages)
    assert inflight.count(platform.broker.client) == 0


def test_sigquit_returns_everything_at_once(platform: Platform) -> None:
    """The fast end."""
    worker = swarm(platform, 2)
    for key in ("one", "two"):
        labour.work.delay(key, 30)
    running("one", "two")
    began = time.monotonic()
    worker.stop(sig=signal.SIGQUIT)
    assert time.monotonic() - began < 2
    assert platform.broker.client.llen("celery") == 2
    assert inflight.count(platform.broker.client) == 0


def test_no_child_outlives_its_supervisor(platform: Platform) -> None:
    """Nobody would keep its limits or its leases; what it ran runs elsewhere."""
    worker = swarm(platform, 2)
    for key in ("one", "two"):
        labour.work.delay(key, 30)
    running("one", "two")
    pids = worker.pool_children()
    worker.kill()
    eventually(lambda: not [pid for pid in pids if _lives(pid)], 2)
    other = swarm(platform, 2)
    eventually(lambda: labour.starts("one") == labour.starts("two") == 2, LEASE + 5)
    other.stop(sig=signal.SIGQUIT)


def test_children_are_replaced_after_so_many_tasks_or_so_much_memory(platform: Platform) -> None:
    """Exactly so many, also where a child has claimed more."""
    worker = swarm(platform, 1, "--max-tasks-per-child", "5")
    for number in range(20):
        labour.work.delay(str(number))
    ended(*map(str, range(20)))
    pids = [effect["pid"] for number in range(20) for effect in far_side.effects(f"{number}:start")]
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [5, 5, 5, 5]
    assert worker.stop() == 0
    fat = swarm(platform, 1, "--max-memory-per-child", "1000")
    for number in range(3):
        labour.work.delay(f"fat-{number}")
    ended(*[f"fat-{number}" for number in range(3)])
    assert len({effect["pid"] for number in range(3) for effect in far_side.effects(f"fat-{number}:start")}) == 3
    assert fat.stop() == 0


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_to_flower_it_is_one_worker(platform: Platform) -> None:
    """One name, alive, with its processes and what they do; its tasks' events carry that name."""
    flower = platform.flower()
    worker = swarm(platform, 2)
    name = f"{worker.name}@test"
    person("ada", Right.VIEW)
    someone = Visitor(flower.url)
    someone.get("/login")
    someone.log_in("ada", PASSWORD)
    for number in range(10):
        labour.work.delay(f"short-{number}")
    labour.work.delay("long", 30)
    ended(*[f"short-{number}" for number in range(10)])

    def shown() -> bool:
        (row,) = json.loads(someone.get("/workers?json=1").text)["data"]
        seen = [row.get(column) for column in ("hostname", "status", "task-succeeded", "active")]
        return seen == [name, True, 10, 1]

    eventually(shown, 20, lambda: someone.get("/workers?json=1").text)
    page = eventually(lambda: "Max concurrency" in (text := someone.get(f"/worker/{name}").text) and text, 20)
    assert all(str(pid) in page for pid in worker.pool_children())
    assert "tests.support.labour.work" in page
    worker.stop(sig=signal.SIGQUIT)


def test_queues_in_strict_order(platform: Platform) -> None:
    """Nothing of the second queue while the first has anything, whatever the priorities."""
    for number in range(5):
        labour.work.apply_async((f"second-{number}",), queue="second", priority=9)
    for number in range(5):
        labour.work.apply_async((f"first-{number}",), queue="first")
    swarm(platform, 1, "-Q", "first,second", "--strict")
    names = [f"{queue}-{number}" for queue in ("first", "second") for number in range(5)]
    ended(*names)
    order = [effect["key"].removesuffix(":start") for effect in far_side.effects() if effect["key"].endswith(":start")]
    assert order == names


def test_queues_are_added_and_left_by_remote_control(platform: Platform) -> None:
    """Also by a process that comes later."""
    worker = swarm(platform, 1)
    control = get_app().control
    inspect = control.inspect([f"{worker.name}@test"], timeout=5, limit=1)
    control.add_consumer("extra")
    labour.work.apply_async(("one",), queue="extra")
    ended("one")
    labour.kill_own_process.delay("killer")
    eventually(lambda: far_side.effects("killer"), 20)
    labour.work.apply_async(("two",), queue="extra")
    ended("two")
    (queues,) = inspect.active_queues().values()
    assert {queue["name"] for queue in queues} == {"celery", "extra"}
    control.cancel_consumer("extra")
    eventually(lambda: len(*inspect.active_queues().values()) == 1, 10)
    labour.work.delay("three")
    ended("three")


def test_a_process_that_cannot_start_is_tried_again_with_growing_pauses(platform: Platform) -> None:
    """No hot loop; the supervisor answers meanwhile, and the swarm works once the cause is gone."""
    gate = environment.directory() / "gate"
    gate.touch()
    env = {**ENV, "ORCHESTRATOR_TEST_IMPORTS": "tests.support.labour,tests.support.gate"}
    worker = Worker(pool="swarm", concurrency=1, env=env)
    worker.launch()
    try:
        worker.wait_for_log("before it was ready(.|\\n)*before it was ready(.|\\n)*before it was ready", 20)
        inspect = get_app().control.inspect([f"{worker.name}@test"], timeout=5, limit=1)
        assert inspect.ping()
        assert worker.log.count("before it was ready") < 6
        gate.unlink()
        labour.work.delay("late")
        ended("late")
    finally:
        gate.unlink(missing_ok=True)
        assert worker.stop() == 0


def test_a_task_that_was_acknowledged_early_is_lost_once_and_seen(platform: Platform) -> None:
    """It never runs twice, and its letter has the message, whether it killed its process or the worker was ended."""
    worker = swarm(platform, 2)
    platform.relay()
    labour.kill_own_process_early.delay("killer")
    eventually(lambda: DeadLetter.objects.count() == 1, 20, worker.tail)
    labour.work_early.delay("long", 60)
    running("long")
    assert worker.stop(sig=signal.SIGQUIT) == 0
    eventually(lambda: DeadLetter.objects.count() == 2, 20, worker.tail)
    rows = {row.task.rpartition(".")[2]: row for row in DeadLetter.objects.all()}
    assert {name: (row.reason, row.verdict) for name, row in rows.items()} == {
        "kill_own_process_early": ("worker_lost", "lost"),
        "work_early": ("worker_lost", "lost"),
    }
    assert get_app().decode(rows["work_early"].message)[0] == ["long", 60]
    idle(platform)
    assert (len(far_side.effects("killer")), labour.starts("long")) == (1, 1)
