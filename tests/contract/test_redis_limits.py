"""Limits in Redis: each algorithm keeps its law under every schedule, and gives away what it may."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from orchestrator import Concurrency, RateLimit
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.limiting import Asking, Charge, Granted, Limited
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.stores.redis.limits import RedisLimits
from orchestrator.stores.redis.scripts import Script
from tests.support import environment
from tests.support.broker import Broker
from tests.support.wait import eventually, pause

#: Redis's clock cannot be set, so the scripts are run with one that can: the only line that is replaced.
CLOCK = "local now = redis.call('TIME')\n  return now[1] * 1000000 + now[2]"
PERIOD = 1_000_000
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def store(url: str, timeout: float = 5.0) -> RedisLimits:
    return RedisLimits(RedisLeases(url, f"test:{uuid4().hex}:", timeout), aging=60)


@pytest.fixture
def limits(broker: Broker) -> RedisLimits:
    return store(broker.url)


def ask(limits: RedisLimits, *charges: Charge, patience: float = 0.0, lease: float = 30) -> Granted | Limited:
    return limits.acquire(Asking(uuid4().hex, patience=patience), charges, lease)


def rate(text: str, **options: object) -> Charge:
    return RateLimit("r", text, **options).charge("test", {}, 0)  # type: ignore[arg-type]


def slots(count: int) -> Charge:
    return Concurrency("c", count).charge("test", {}, 0)


class Timed:
    """The acquiring script on the real server, at times that a test chooses."""

    def __init__(self, url: str) -> None:
        import redis

        self.client = redis.Redis.from_url(url)
        self.prefix = f"test:{uuid4().hex}:"
        script = Script("lease", "limits", "limits_acquire")
        assert CLOCK in script.text
        script.text = script.text.replace(CLOCK, f"return tonumber(redis.call('GET', '{self.prefix}clock'))")
        self.numbers = itertools.count()
        self.text = script.text
        self.now = 10**15

    def ask(self, charges: list[Charge], patience: int) -> int | None:
        """Return when it is granted, in microseconds, or None."""
        self.client.set(f"{self.prefix}clock", self.now)
        args: list[object] = [self.prefix, f"o{next(self.numbers)}", "", 0, 30_000, patience]
        for charge in charges:
            args += (charge.id, charge.spec, charge.units)
        found = self.client.eval(self.text, 1, f"{self.prefix}fence", *args)
        return self.now + found[1] if found[0] else None


STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3), st.integers(0, PERIOD * 2)),  # microseconds that pass
        st.integers(1, 4),  # units
        st.sampled_from([0, 50_000, PERIOD * 3]),  # patience
    ),
    min_size=1,
    max_size=40,
)


def most_in_any(grants: list[tuple[int, int]], span: int) -> int:
    """Return the most units within any closed span."""
    return max(sum(units for at, units in grants if start <= at <= start + span) for start, _ in grants)


@QUICK
@given(count=st.integers(4, 9), steps=STEPS)
def test_sliding_never_more_than_the_count_in_any_period(count: int, steps: list[tuple[int, int, int]]) -> None:
    """Also among grants of the future, and those entered before them."""
    clock, grants = Timed(environment.world().broker.url), []
    limit = RateLimit("r", f"{count}/s")
    for passing, units, patience in steps:
        clock.now += passing
        charge = limit.charge("test", {}, 0)
        at = clock.ask([Charge(charge.id, charge.spec, units)], patience)
        if at is not None:
            assert clock.now <= at <= clock.now + patience
            grants.append((at, units))
    if grants:
        assert most_in_any(grants, PERIOD) <= count


@QUICK
@given(count=st.integers(2, 9), burst=st.integers(4, 6), steps=STEPS)
def test_gcra_never_more_than_burst_plus_rate(count: int, burst: int, steps: list[tuple[int, int, int]]) -> None:
    clock, grants = Timed(environment.world().broker.url), []
    limit = RateLimit("r", f"{count}/s", algorithm="gcra", burst=burst)
    for passing, units, patience in steps:
        clock.now += passing
        charge = limit.charge("test", {}, 0)
        at = clock.ask([Charge(charge.id, charge.spec, units)], patience)
        if at is not None:
            grants.append((at, units))
    times = sorted(at for at, _ in grants)
    for begin, end in itertools.combinations_with_replacement(times, 2):
        within = sum(units for at, units in grants if begin <= at <= end)
        assert within <= burst + (end - begin) * count / PERIOD


@QUICK
@given(
    steps=st.lists(
        st.tuples(st.integers(0, PERIOD), st.booleans(), st.booleans(), st.sampled_from([0, 100_000])),
        min_size=1,
        max_size=40,
    )
)
def test_several_limits_keep_their_laws_together(steps: list[tuple[int, bool, bool, int]]) -> None:
    """Calls under either limit or both: what one refuses, none has counted."""
    clock = Timed(environment.world().broker.url)
    wide, narrow = RateLimit("wide", "5/s").charge("t", {}, 0), RateLimit("narrow", "2/s").charge("t", {}, 0)
    granted: dict[str, list[tuple[int, int]]] = {"wide": [], "narrow": []}
    for passing, in_wide, in_narrow, patience in steps:
        clock.now += passing
        charges = [*([wide] if in_wide else []), *([narrow] if in_narrow else [])]
        free = {
            one.id: sum(1 for at, _ in granted[one.id] if at >= clock.now - PERIOD) < int(one.spec.split()[1])
            for one in charges
        }
        at = clock.ask(charges, patience)
        if charges and all(free.values()):
            assert at is not None, "nothing was in the way"
        for one in charges if at is not None else ():
            granted[one.id].append((at or 0, 1))
    assert not granted["wide"] or most_in_any(granted["wide"], PERIOD) <= 5
    assert not granted["narrow"] or most_in_any(granted["narrow"], PERIOD) <= 2


@pytest.mark.parametrize("algorithm", [{}, {"algorithm": "gcra", "burst": 1}, {"algorithm": "gcra", "burst": 5}])
def test_a_backlog_uses_what_it_may(algorithm: dict[str, object]) -> None:
    """Whoever asks again at the time it was told gets at least 98 % of the rate."""
    clock = Timed(environment.world().broker.url)
    charge, grants = rate("10/s", **algorithm), []
    for _ in range(200):
        at = clock.ask([charge], 50_000)
        if at is None:
            clock.now += 50_000
        else:
            grants.append(at)
    elapsed = grants[-1] - grants[0]
    ideal = (len(grants) - 10) / 10 * PERIOD
    assert elapsed <= ideal / 0.98 + PERIOD


def test_keys_and_tiers_are_counted_for_themselves(limits: RedisLimits) -> None:
    limit = RateLimit("api", {"premium": "2/h", "default": "1/h"}, key="{account}")
    plain, premium = limit.charge("t", {"account": "a"}, 0), limit.charge("t", {"account": "a"}, 9)
    other = limit.charge("t", {"account": "b"}, 0)
    assert [isinstance(ask(limits, one), Granted) for one in (plain, plain, other, premium, premium, premium)] == [
        True,
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_limit_tells_how_long_it_takes(limits: RedisLimits) -> None:
    charge = rate("1/m")
    ask(limits, charge)
    found = ask(limits, charge)
    assert isinstance(found, Limited)
    assert 59 < found.seconds <= 60.001


def test_what_the_far_side_said_holds(limits: RedisLimits) -> None:
    charge = rate("100/s")
    limits.hold([charge.id], 0.3)
    found = ask(limits, charge)
    assert isinstance(found, Limited)
    assert 0.1 < found.seconds <= 0.3
    limits.hold([charge.id], 0.1)
    pause(found.seconds)
    assert isinstance(ask(limits, charge), Granted)


def test_a_change_counts_for_everybody_at_once(limits: RedisLimits) -> None:
    charge = rate("1/h")
    ask(limits, charge)
    assert isinstance(ask(limits, charge), Limited)
    limits.change("r", 3, 3600 * PERIOD)
    assert limits.changes() == {"r": (3, 3600 * PERIOD, 1)}
    assert isinstance(ask(limits, charge), Granted)
    limits.change("r", 0, PERIOD)
    assert isinstance(ask(limits, charge), Limited), "nought lets nobody through"
    limits.restore("r")
    assert limits.changes() == {}


def test_a_call_heavier_than_a_limit_made_smaller_takes_all_of_it(limits: RedisLimits) -> None:
    heavy = RateLimit("r", "10/s", weight=8).charge("t", {}, 0)
    limits.change("r", 3, PERIOD)
    assert isinstance(ask(limits, heavy), Granted)
    assert isinstance(ask(limits, rate("10/s")), Limited)


# --- slots --------------------------------------------------------------------------------


def test_a_dead_owners_slot_is_free_after_its_lease(limits: RedisLimits) -> None:
    assert isinstance(ask(limits, slots(1), lease=0.3), Granted)
    begun = time.monotonic()
    eventually(lambda: isinstance(ask(limits, slots(1)), Granted), 2)
    assert 0.2 < time.monotonic() - begun < 0.6


def test_a_living_owner_keeps_its_slot(limits: RedisLimits) -> None:
    found = limits.acquire(Asking("me"), [slots(1)], 0.3)
    assert isinstance(found, Granted)
    with limits.keep("me", ["c"], found.fence, 0.3):
        pause(0.8)
        assert isinstance(ask(limits, slots(1)), Limited)
    limits.release("me", ["c"])
    assert isinstance(ask(limits, slots(1)), Granted)


def test_only_its_owner_gives_a_slot_back(limits: RedisLimits) -> None:
    limits.acquire(Asking("me"), [slots(1)], 30)
    limits.release("you", ["c"])
    assert isinstance(ask(limits, slots(1)), Limited)
    assert isinstance(limits.acquire(Asking("me"), [slots(1)], 30), Granted), "asking again is safe"


class Slots(RuleBasedStateMachine):
    """Any number of owners, any order of taking, giving back and dying: never more than there are."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = store(environment.world().broker.url)
        self.holding: dict[str, int] = {}
        self.numbers = itertools.count()
        self.highest = 0
        self.count = 2

    @rule()
    def take(self) -> None:
        owner = f"o{next(self.numbers)}"
        found = self.limits.acquire(Asking(owner), [slots(2)], 30)
        assert isinstance(found, Granted) == (len(self.holding) < self.count)
        if isinstance(found, Granted):
            assert found.fence > self.highest
            self.highest = self.holding[owner] = found.fence

    @rule(which=st.integers(0, 5))
    def give_back(self, which: int) -> None:
        if self.holding:
            owner = sorted(self.holding)[which % len(self.holding)]
            self.limits.release(owner, ["c"])
            del self.holding[owner]

    @rule()
    def strangers_give_back(self) -> None:
        self.limits.release("stranger", ["c"])

    @rule(count=st.integers(0, 4))
    def change(self, count: int) -> None:
        self.limits.change("c", count)
        self.count = count

    @invariant()
    def never_more_than_there_are(self) -> None:
        assert len(self.holding) <= max(self.count, 4)


def test_slots_under_any_schedule(broker: Broker) -> None:
    run_state_machine_as_test(Slots, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))


@pytest.fixture
def nobody() -> Iterator[RedisLimits]:
    yield store(f"redis://127.0.0.1:{free_port()}/0", 0.2)


def test_a_store_that_is_away_says_so(nobody: RedisLimits) -> None:
    with pytest.raises(StoreUnavailable, match="ORCHESTRATOR_STATE_URL"):
        ask(nobody, rate("1/s"))
