"""Circuit breakers: the law of the state machine under any schedule, on a real Redis."""

from __future__ import annotations

import multiprocessing
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from orchestrator.contracts.breaker import Breaker, End, Entry, Forced, State
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.leases import RedisLeases
from tests.support import environment
from tests.support.broker import Broker
from tests.support.wait import eventually, pause

FORK = multiprocessing.get_context("fork")
LEASE = 600.0


@pytest.fixture
def breakers(broker: Broker) -> RedisBreakers:
    return RedisBreakers(RedisLeases(broker.url, f"test:{uuid4().hex}:", 5))


def fail(breakers: RedisBreakers, breaker: Breaker, times: int) -> list[State | None]:
    """Let attempts run and fail."""
    changes = []
    for _ in range(times):
        attempt = uuid4().hex
        if breakers.enter(breaker, attempt, LEASE).runs:
            changes.append(breakers.record(breaker, attempt, End.FAILED))
    return changes


def test_it_opens_probes_once_and_closes(breakers: RedisBreakers) -> None:
    breaker = Breaker("far", minimum=3, cooldown=0.2)
    assert fail(breakers, breaker, 5) == [None, None, State.OPEN]
    closed = breakers.enter(breaker, "x", LEASE)
    assert not closed.runs and 0 < closed.wait <= 0.2
    probe = eventually(lambda: (entry := breakers.enter(breaker, "probe", LEASE)).runs and entry)
    assert probe == Entry(True, probe=True)
    assert breakers.show("far").state is State.HALF_OPEN
    assert not breakers.enter(breaker, "second", LEASE).runs, "one probe at a time"
    assert breakers.record(breaker, "probe", End.GOOD) is State.CLOSED
    assert breakers.enter(breaker, "after", LEASE) == Entry(True)
    assert breakers.show("far").failed == 0, "it starts from nothing"


def test_a_dead_probe_makes_room_for_another(breakers: RedisBreakers) -> None:
    breaker = Breaker("far", minimum=1, cooldown=0.05)
    fail(breakers, breaker, 1)
    eventually(lambda: breakers.enter(breaker, "dead", 0.3).probe)
    assert not breakers.enter(breaker, "next", LEASE).runs
    eventually(lambda: breakers.enter(breaker, "next", LEASE).probe)
    assert breakers.record(breaker, "dead", End.GOOD) is None, "it is not the probe any more"
    assert breakers.record(breaker, "next", End.FAILED) is State.OPEN


def test_old_ends_leave_the_window(breakers: RedisBreakers) -> None:
    breaker = Breaker("far", minimum=3, window=0.2)
    fail(breakers, breaker, 2)
    eventually(lambda: breakers.show("far").failed == 0)
    pause(0.01)
    assert fail(breakers, breaker, 2) == [None, None]


def test_what_began_before_it_changed_says_nothing(breakers: RedisBreakers) -> None:
    """A slow attempt from before the outage must not close it, nor open it again."""
    breaker = Breaker("far", minimum=1, cooldown=600)
    breakers.enter(breaker, "slow", LEASE)
    fail(breakers, breaker, 1)
    assert breakers.record(breaker, "slow", End.GOOD) is None
    assert breakers.show("far").state is State.OPEN
    breakers.set("far", None)
    breakers.enter(breaker, "old", LEASE)
    breakers.set("far", None)
    assert breakers.record(breaker, "old", End.FAILED) is None
    assert breakers.show("far").failed == 0


def test_an_end_is_counted_once(breakers: RedisBreakers) -> None:
    breaker = Breaker("far", minimum=10)
    breakers.enter(breaker, "one", LEASE)
    for _ in range(3):
        breakers.record(breaker, "one", End.FAILED)
    assert breakers.show("far").failed == 1


def test_people_decide(breakers: RedisBreakers) -> None:
    breaker = Breaker("far", minimum=1)
    assert not breakers.set("far", Forced.OPEN), "nobody knows it yet"
    breakers.enter(breaker, "one", LEASE)
    assert breakers.set("far", Forced.OPEN)
    assert not breakers.enter(breaker, "two", LEASE).runs
    assert breakers.set("far", Forced.CLOSED)
    assert fail(breakers, breaker, 3) == [None] * 3
    shown = breakers.show("far")
    assert (shown.state, shown.forced, shown.failed) == (State.CLOSED, Forced.CLOSED, 3)
    assert breakers.set("far", None)
    assert fail(breakers, breaker, 1) == [State.OPEN]
    assert [(one.name, one.state, one.forced) for one in breakers.list()] == [("far", State.OPEN, None)]
    assert (shown.error_rate, shown.minimum, shown.window, shown.cooldown) == (0.5, 1, 60, 30)


def test_of_many_processes_one_is_the_probe(breakers: RedisBreakers) -> None:
    breaker = Breaker("far", minimum=1, cooldown=0.01)
    fail(breakers, breaker, 1)
    pause(0.02)
    probes, barrier = FORK.Queue(), FORK.Barrier(6)

    def compete(name: str) -> None:
        barrier.wait(30)
        probes.put(breakers.enter(breaker, name, LEASE).probe)

    children = [FORK.Process(target=compete, args=(f"p{n}",)) for n in range(6)]
    for child in children:
        child.start()
    assert sorted(probes.get(timeout=30) for _ in children) == [False] * 5 + [True]
    for child in children:
        child.join(30)


def test_a_missing_redis_is_named() -> None:
    port = free_port()
    away, breaker = RedisBreakers(RedisLeases(f"redis://127.0.0.1:{port}/0", "test:", 1)), Breaker("far")
    for ask in (
        lambda: away.enter(breaker, "x", 1),
        lambda: away.record(breaker, "x", End.GOOD),
        lambda: away.set("far", None),
        lambda: away.list(),
    ):
        with pytest.raises(StoreUnavailable, match=str(port)):
            ask()


class Model(RuleBasedStateMachine):
    """Any schedule of attempts, ends, cooldowns, deaths and decisions, against a model in memory."""

    breaker = Breaker("far", error_rate=0.5, minimum=3, window=10_000, cooldown=10_000)

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"model:{uuid4().hex}:"
        self.client = environment.world().broker.client
        self.breakers = RedisBreakers(RedisLeases(environment.world().broker.url, self.prefix, 5))
        self.number = 0
        self.state, self.cooled, self.forced = State.CLOSED, False, ""
        self.good = self.failed = 0
        self.probe = ""
        #: Attempt -> the change of state after which it began.
        self.running: dict[str, int] = {}
        self.changes = 0

    def _become(self, state: State) -> None:
        self.state, self.cooled = state, False
        if state is State.CLOSED:
            self.good = self.failed = 0
        self.changes += 1

    @rule()
    def enter(self) -> None:
        self.number += 1
        name = f"attempt-{self.number}"
        entry = self.breakers.enter(self.breaker, name, LEASE)
        if self.forced == "open":
            assert not entry.runs
        elif self.state is State.CLOSED or self.forced == "closed":
            assert entry == Entry(True)
            self.running[name] = self.changes
        elif self.cooled and not self.probe:
            assert entry == Entry(True, probe=True)
            self.probe, self.running[name] = name, self.changes
        else:
            assert not entry.runs and entry.wait > 0

    @precondition(lambda self: self.running)
    @rule(data=st.data(), end=st.sampled_from(End))
    def end(self, data: st.DataObject, end: End) -> None:
        name = data.draw(st.sampled_from(sorted(self.running)))
        began = self.running.pop(name)
        changed = self.breakers.record(self.breaker, name, end)
        assert changed == self._told(name, began, end)
        if changed is not None:
            self._become(changed)
        assert self.breakers.record(self.breaker, name, end) is None

    def _told(self, name: str, began: int, end: End) -> State | None:
        if name == self.probe:
            self.probe = ""
            return {End.GOOD: State.CLOSED, End.FAILED: State.OPEN, End.NEITHER: None}[end]
        if end is End.NEITHER or self.state is State.OPEN or began < self.changes:
            return None
        self.good += end is End.GOOD
        self.failed += end is End.FAILED
        total = self.good + self.failed
        opens = end is End.FAILED and total >= 3 and self.failed >= total * 0.5 and self.forced != "closed"
        return State.OPEN if opens else None

    @precondition(lambda self: self.state is State.OPEN)
    @rule()
    def cool_down(self) -> None:
        # What the clock does, done at once.
        self.client.hset(f"{self.prefix}breaker:far", "until", 0)
        self.cooled = True

    @precondition(lambda self: self.probe)
    @rule()
    def the_probe_dies(self) -> None:
        self.client.delete(f"{self.prefix}lease:breaker:far")
        self.probe = ""

    @precondition(lambda self: self.number)
    @rule(forced=st.sampled_from([None, *Forced]))
    def decide(self, forced: Forced | None) -> None:
        assert self.breakers.set("far", forced)
        self.forced, self.probe = str(forced or ""), ""
        self._become(State.CLOSED)

    @invariant()
    def it_is_shown_as_it_is(self) -> None:
        shown = self.breakers.show("far")
        half = self.state is State.OPEN and self.cooled
        assert shown.state == (self.forced or (State.HALF_OPEN if half else self.state))
        assert (shown.good, shown.failed) == (self.good, self.failed)


def test_the_law_holds_under_any_schedule(broker: Broker) -> None:
    quick = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Model, settings=quick)
