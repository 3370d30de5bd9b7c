"""Deduplication locks: the law of each mode under any schedule, on a real Redis."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orchestrator.contracts.deduplication import Claim, Duplicate, Mode, Start, Taken, Unsure, Wait
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.deduplication import RedisDeduplicationLocks
from orchestrator.stores.redis.leases import RedisLeases
from tests.support import environment
from tests.support.broker import Broker
from tests.support.wait import eventually, pause

quick = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


def made(url: str = "", prefix: str = "") -> RedisDeduplicationLocks:
    url = url or environment.world().broker.url
    return RedisDeduplicationLocks(RedisLeases(url, prefix or f"test:{uuid4().hex}:", 5), 30)


@pytest.fixture
def locks(broker: Broker) -> RedisDeduplicationLocks:
    return made(broker.url)


def call(locks: RedisDeduplicationLocks, claim: Claim, task_id: str, *args: Any) -> Any:
    """Take the lock and, where that works, say that the message is sent."""
    found = locks.take(claim, task_id, locks.encode(args, {}), None)
    if isinstance(found, Taken):
        locks.confirm(claim, task_id, 600)
    return found


def test_of_one_that_is_just_publishing_nothing_is_known_until_it_is_sent_or_not(
    locks: RedisDeduplicationLocks,
) -> None:
    """Its failure must not make others duplicates of nothing."""
    claim = Claim("t.t", "a", Mode.UNTIL_STARTED)
    assert locks.take(claim, "one", "", None) == Taken(0)
    assert locks.take(claim, "two", "", None) == Unsure("one")
    assert locks.take(claim, "one", "", None) == Taken(0), "who publishes again under its id is not its own duplicate"
    locks.end(claim, "one")
    assert locks.take(claim, "two", "", None) == Taken(0)
    locks.confirm(claim, "two", 60)
    assert locks.take(claim, "three", "", None) == Duplicate("two")


def test_a_publisher_that_died_frees_itself(locks: RedisDeduplicationLocks, broker: Broker) -> None:
    claim = Claim("t.t", "a", Mode.UNTIL_FINISHED)
    locks.take(claim, "one", "", None)
    (key,) = broker.client.keys("*lease:dedup:*")
    assert 0 < broker.client.pttl(key) <= 30_000


def test_locks_of_other_modes_and_tasks_never_meet(locks: RedisDeduplicationLocks) -> None:
    claims = [Claim(task, "a", mode, 1.0) for task in ("t.t", "t.u") for mode in Mode]
    assert all(isinstance(call(locks, claim, f"id-{n}"), Taken) for n, claim in enumerate(claims))


def test_only_its_own_attempt_ends_what_was_skipped(locks: RedisDeduplicationLocks) -> None:
    """A copy that another policy skipped has the id of the run, and must not end it."""
    claim = Claim("t.t", "a", Mode.UNTIL_FINISHED)
    call(locks, claim, "one")
    locks.end(claim, "one", "copy")
    assert locks.owner(claim) == "one"
    assert locks.begin(claim, "one", "first") == Start(None, held=True)
    locks.end(claim, "one", "copy")
    assert locks.owner(claim) == "one"
    locks.end(claim, "one", "first")
    assert locks.owner(claim) is None


def test_what_a_failed_run_had_taken_over_can_be_asked_for_twice(locks: RedisDeduplicationLocks) -> None:
    """Settling may be repeated until the letter is safe."""
    claim = Claim("t.t", "a", Mode.LATEST)
    call(locks, claim, "one", 1)
    call(locks, claim, "two", 2)
    assert locks.begin(claim, "one", "x") == Start(([2], {}), held=True)
    assert locks.end(claim, "one", again=60) == ([2], {})
    assert locks.end(claim, "one", again=60) == ([2], {})
    # One that never started, too.
    call(locks, claim, "three", 3)
    call(locks, claim, "four", 4)
    assert locks.end(claim, "three", again=60) == ([4], {})
    assert isinstance(call(locks, claim, "five", 5), Taken)


def test_a_redelivered_run_has_what_it_took_over(locks: RedisDeduplicationLocks) -> None:
    claim = Claim("t.t", "a", Mode.LATEST)
    call(locks, claim, "one", 1)
    call(locks, claim, "two", 2)
    assert locks.begin(claim, "one", "x") == locks.begin(claim, "one", "y") == Start(([2], {}), held=True)


def test_locks_are_listed_and_freed_by_people(locks: RedisDeduplicationLocks) -> None:
    """Whatever has them; gone ones are not shown."""
    started, finished = (Claim("t.t", "a", mode) for mode in (Mode.UNTIL_STARTED, Mode.UNTIL_FINISHED))
    latest = Claim("t.t", "b", Mode.LATEST)
    call(locks, started, "one")
    call(locks, started, "again")
    call(locks, finished, "two")
    locks.begin(finished, "two", "x")
    call(locks, latest, "three")
    locks.begin(latest, "three", "x")
    call(locks, latest, "four")
    shown = {(lock.name, lock.task_id): (lock.state, lock.duplicates) for lock in locks.list(0, 10)}
    assert shown == {
        (started.name, "one"): ("waiting", 1),
        (finished.name, "two"): ("running", 0),
        (latest.name, "three"): ("running", 0),
        (latest.name, "four"): ("waiting", 0),
    }
    assert all(abs(lock.since - time.time()) < 60 and 0 < lock.seconds <= 24 * 3600 for lock in locks.list(0, 10))
    assert locks.count() == 3
    assert [locks.free(claim.name) for claim in (started, finished, latest)] == [True] * 3
    assert not locks.free(started.name)
    assert not locks.list(0, 10) and not locks.count()


def test_the_index_forgets_what_ended_by_itself(locks: RedisDeduplicationLocks) -> None:
    claim = Claim("t.t", "a", Mode.WINDOW, 0.05)
    assert isinstance(locks.take(claim, "one", "", None), Taken)
    locks.confirm(claim, "one", 0.05)
    eventually(lambda: locks.owner(claim) is None)
    pause(0.01)
    call(locks, Claim("t.t", "b", Mode.WINDOW, 0.05), "two")
    assert locks.count() == 1


def test_a_missing_redis_is_named() -> None:
    port = free_port()
    away, claim = made(f"redis://127.0.0.1:{port}/0"), Claim("t.t", "a", Mode.LATEST)
    for ask in (
        lambda: away.take(claim, "one", "[]", None),
        lambda: away.confirm(claim, "one", 1),
        lambda: away.begin(claim, "one", "x"),
        lambda: away.pause(claim, "one"),
        lambda: away.end(claim, "one"),
        lambda: away.owner(claim),
        lambda: away.free("x"),
        lambda: away.list(0, 1),
    ):
        with pytest.raises(StoreUnavailable, match=str(port)):
            ask()


class Laws(RuleBasedStateMachine):
    """Calls, starts, redeliveries, retries and ends in any order, against the laws of the modes without time."""

    mode: Mode

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"model:{uuid4().hex}:"
        self.locks = made(prefix=self.prefix)
        self.client = environment.world().broker.client
        self.claim = Claim("t.t", "a", self.mode)
        self.calls = 0
        #: Task id -> number of the newest call that it stands for.
        self.waiting: dict[str, int] = {}
        self.running: dict[str, int] = {}

    @rule(sent=st.sampled_from([True, True, True, False]))
    def call(self, sent: bool) -> None:
        self.calls += 1
        task_id = f"id-{self.calls}"
        found = self.locks.take(self.claim, task_id, self.locks.encode([self.calls], {}), None)
        blocking = {**self.waiting, **(self.running if self.mode is Mode.UNTIL_FINISHED else {})}
        if blocking:
            assert found == Duplicate(*blocking)
            if self.claim.newest:
                self.waiting[found.task_id] = self.calls
            return
        assert found == Taken(0)
        if sent:
            self.locks.confirm(self.claim, task_id, 600)
            self.waiting[task_id] = self.calls
        else:
            self.locks.end(self.claim, task_id)

    def _begin(self, task_id: str, first_call: int, newest: int) -> bool:
        found = self.locks.begin(self.claim, task_id, uuid4().hex)
        if isinstance(found, Wait):
            return False
        replaced = first_call != newest and self.claim.newest
        assert found.newer == (([newest], {}) if replaced else None)
        return True

    @precondition(lambda self: self.waiting)
    @rule()
    def start(self) -> None:
        task_id, newest = next(iter(self.waiting.items()))
        started = self._begin(task_id, int(task_id.removeprefix("id-")), newest)
        assert started == (self.mode is not Mode.LATEST or not self.running)
        if started:
            self.running[task_id] = self.waiting.pop(task_id)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), retried=st.booleans())
    def start_again(self, data: st.DataObject, retried: bool) -> None:
        """Redelivered, or retried."""
        task_id = data.draw(st.sampled_from(sorted(self.running)))
        if retried:
            self.locks.pause(self.claim, task_id)
        assert self._begin(task_id, int(task_id.removeprefix("id-")), self.running[task_id])

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[task_id]
        self.locks.end(self.claim, task_id)

    @precondition(lambda self: self.waiting)
    @rule()
    def revoke(self) -> None:
        task_id, _ = self.waiting.popitem()
        self.locks.end(self.claim, task_id)

    @invariant()
    def at_most_one(self) -> None:
        assert len(self.waiting) <= 1
        if self.mode is not Mode.UNTIL_STARTED:
            assert len(self.running) <= 1
        if self.mode is Mode.UNTIL_FINISHED:
            assert len(self.waiting) + len(self.running) <= 1

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        """What nobody needs is not there; what is there ends by itself."""
        keys = self.client.keys(f"{self.prefix}*dedup[:-]*")
        assert all(self.client.pttl(key) > 0 for key in keys)
        if not self.waiting and not self.running:
            assert not keys
            assert not self.locks.count()


@pytest.mark.parametrize("mode", [Mode.UNTIL_STARTED, Mode.UNTIL_FINISHED, Mode.LATEST])
def test_the_laws_without_time_hold_under_any_schedule(broker: Broker, mode: Mode) -> None:
    machine = type("Machine", (Laws,), {"mode": mode})
    run_state_machine_as_test(machine, settings=quick)


WINDOW = 0.04
gaps = st.lists(st.sampled_from([0.0, 0.005, 0.02, 0.05]), min_size=1, max_size=8)


def _play(locks: RedisDeduplicationLocks, claim: Claim, gaps: list[float]) -> tuple[list[tuple[float, int]], Any]:
    """Call after each gap; a worker starts what is due. Return calls and starts as (time, number)."""
    calls: list[tuple[float, int]] = []
    starts: list[tuple[float, float, int]] = []
    due: dict[str, tuple[float, int]] = {}

    def work() -> None:
        for task_id, (at, number) in list(due.items()):
            before = time.monotonic()
            if before < at:
                continue
            found = locks.begin(claim, task_id, "x")
            if isinstance(found, Wait):
                due[task_id] = (before + found.seconds, number)
                continue
            starts.append((before, time.monotonic(), found.newer[0][0] if found.newer else number))
            del due[task_id]
            locks.end(claim, task_id)

    for number, gap in enumerate(gaps):
        end = time.monotonic() + gap
        while time.monotonic() < end:
            work()
            pause(0.002)
        calls.append((time.monotonic(), number))
        found = call(locks, claim, f"id-{number}", number)
        if isinstance(found, Taken):
            due[f"id-{number}"] = (time.monotonic() + found.delay, number)
    eventually(lambda: work() or not due)
    return calls, starts


timed = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@given(gaps=gaps)
@timed
def test_debounce_starts_only_after_a_pause_and_with_the_last_call(gaps: list[float]) -> None:
    calls, starts = _play(made(), Claim("t.t", "a", Mode.DEBOUNCE, WINDOW), gaps)
    times = {number: at for at, number in calls}
    assert [number for _, _, number in starts] == sorted({number for _, _, number in starts})
    assert starts[-1][2] == len(gaps) - 1, "the last call takes effect"
    for _, after, number in starts:
        assert after - times[number] >= WINDOW - 0.001
        later = [at for at, other in calls if other > number]
        assert not later or later[0] - times[number] >= WINDOW - 0.005, "no call came within the window"


@given(gaps=gaps)
@timed
def test_throttle_starts_are_apart_and_the_last_call_is_never_lost(gaps: list[float]) -> None:
    calls, starts = _play(made(), Claim("t.t", "a", Mode.THROTTLE, WINDOW), gaps)
    assert starts[-1][2] == len(gaps) - 1
    for (before, _, _), (_, after, _) in pairwise(starts):
        assert after - before >= WINDOW - 0.001
    assert len(starts) <= len(calls)


def test_a_debounce_that_is_never_left_alone_runs_after_its_longest_wait(locks: RedisDeduplicationLocks) -> None:
    claim = Claim("t.t", "a", Mode.DEBOUNCE, 0.2, 60, 0.3)
    begun = time.monotonic()
    call(locks, claim, "id", 0)

    def called_and_started() -> bool:
        call(locks, claim, "other", 1)
        return isinstance(locks.begin(claim, "id", "x"), Start)

    eventually(called_and_started, 10)
    assert 0.29 <= time.monotonic() - begun < 2


def test_of_two_calls_that_arrive_in_the_wrong_order_the_later_one_counts(locks: RedisDeduplicationLocks) -> None:
    """What a transaction kept is sent later than it was called."""
    claim = Claim("t.t", "a", Mode.LATEST)
    call(locks, claim, "one", 1)
    call(locks, claim, "two", 2)
    locks.take(claim, "kept", locks.encode([0], {}), time.time() - 60)
    assert locks.begin(claim, "one", "x") == Start(([2], {}), held=True)
