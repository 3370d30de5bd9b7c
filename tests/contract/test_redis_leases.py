"""Leases: of any number of owners at most one holds a key, and each later one has a higher number."""

from __future__ import annotations

import multiprocessing
import os
import signal
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from orchestrator.contracts.errors import InvalidOption, StoreUnavailable
from orchestrator.contracts.ports import Lease, Leases
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.leases import RedisLeases
from tests.support import environment
from tests.support.broker import Broker
from tests.support.wait import eventually, stays

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def leases(broker: Broker) -> RedisLeases:
    return RedisLeases(broker.url, f"test:{uuid4().hex}:", 5)


def test_the_first_owner_holds_the_key_and_keeps_it(leases: RedisLeases) -> None:
    first = leases.acquire("key", "one", 60)
    assert first is not None
    assert leases.acquire("key", "two", 60) is None
    assert leases.acquire("key", "one", 60) == first, "the owner that asks again still holds it, under its number"
    assert leases.acquire("another", "two", 60) is not None


def test_only_its_owner_gives_it_back(leases: RedisLeases) -> None:
    leases.acquire("key", "one", 60)
    assert not leases.release("key", "two")
    assert leases.release("key", "one")
    assert not leases.release("key", "one")
    assert leases.acquire("key", "two", 60) is not None


def test_a_dead_owner_frees_itself(leases: RedisLeases) -> None:
    dead = leases.acquire("key", "one", 0.2)
    assert dead is not None
    assert leases.acquire("key", "two", 60) is None
    heir = eventually(lambda: leases.acquire("key", "two", 60), 30)
    assert heir is not None
    assert heir.fence > dead.fence
    assert leases.acquire("key", "one", 60) is None
    assert not leases.renew(dead, 60)


def test_asking_again_and_renewing_extend_the_time(leases: RedisLeases) -> None:
    lease = leases.acquire("key", "one", 5)
    assert lease is not None
    leases.acquire("key", "one", 500)
    holder = leases.holder("key")
    assert holder is not None and 100 < holder.seconds <= 500
    assert leases.renew(lease, 1000)
    holder = leases.holder("key")
    assert holder is not None and 500 < holder.seconds <= 1000


def test_a_holder_is_shown_with_its_note_and_can_be_freed_by_hand(leases: RedisLeases) -> None:
    lease = leases.acquire("key", "one", 60, "why")
    holder = leases.holder("key")
    assert holder is not None
    assert (holder.lease, holder.note) == (lease, "why")
    assert leases.free("key")
    assert not leases.free("key")
    assert leases.holder("key") is None


def test_numbers_grow_also_over_a_redis_that_lost_everything(leases: RedisLeases, broker: Broker) -> None:
    before = leases.acquire("key", "one", 60)
    broker.flush()
    after = leases.acquire("key", "two", 60)
    assert before is not None and after is not None
    assert after.fence > before.fence
    assert after.fence < 2**63


def test_a_kept_lease_outlives_its_span_and_ends_after_the_block(leases: RedisLeases) -> None:
    lease = leases.acquire("key", "one", 1.0)
    assert lease is not None
    with leases.keep(lease, 1.0):
        stays(lambda: leases.acquire("key", "two", 1.0) is None, 3.0)
    eventually(lambda: leases.acquire("key", "two", 60), 30)


def test_a_shorter_lease_hurries_the_renewal_that_sleeps_for_a_longer_one(leases: RedisLeases) -> None:
    long, short = leases.acquire("long", "one", 600), leases.acquire("short", "one", 1.0)
    assert long is not None and short is not None
    with leases.keep(long, 600), leases.keep(short, 1.0):
        stays(lambda: leases.acquire("short", "two", 1.0) is None, 2.5)


def _hold(leases: RedisLeases, ready: multiprocessing.synchronize.Event) -> None:
    lease = leases.acquire("key", "child", 1.0)
    assert lease is not None
    with leases.keep(lease, 1.0):
        ready.set()
        signal.pause()


def test_a_forked_child_renews_its_own_and_its_death_frees_the_key(leases: RedisLeases) -> None:
    own = leases.acquire("parents", "parent", 1.0)
    assert own is not None
    ready = FORK.Event()
    with leases.keep(own, 1.0):
        child = FORK.Process(target=_hold, args=(leases, ready))
        child.start()
        assert ready.wait(30)
        stays(lambda: leases.acquire("key", "parent", 1.0) is None, 2.5)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        eventually(lambda: leases.acquire("key", "parent", 60), 30)
        assert leases.acquire("parents", "other", 1.0) is None, "the parent's own renewal went on"


def test_of_many_processes_one_wins(leases: RedisLeases) -> None:
    winners = FORK.Queue()
    barrier = FORK.Barrier(8)

    def compete(name: str) -> None:
        barrier.wait(30)
        for round_ in range(20):
            if leases.acquire(f"round-{round_}", name, 60):
                winners.put((round_, name))

    children = [FORK.Process(target=compete, args=(f"owner-{n}",)) for n in range(8)]
    for child in children:
        child.start()
    won = [winners.get(timeout=30) for _ in range(20)]
    for child in children:
        child.join(30)
    assert sorted(round_ for round_, _ in won) == list(range(20))
    assert winners.empty()


def test_scripts_survive_a_server_that_forgot_them(leases: RedisLeases, broker: Broker) -> None:
    assert leases.acquire("key", "one", 60)
    broker.client.script_flush()
    assert not leases.acquire("key", "two", 60)


def test_a_missing_redis_is_named() -> None:
    port = free_port()
    away = RedisLeases(f"redis://127.0.0.1:{port}/0", "test:", 1)
    lease = Lease("key", "one", 1)
    for ask in (
        lambda: away.acquire("key", "one", 60),
        lambda: away.renew(lease, 60),
        lambda: away.release("key", "one"),
        lambda: away.holder("key"),
        lambda: away.free("key"),
    ):
        with pytest.raises(StoreUnavailable, match=str(port)):
            ask()


def test_an_address_that_is_no_redis_is_refused_with_the_setting() -> None:
    with pytest.raises(InvalidOption, match="ORCHESTRATOR_STATE_URL"):
        RedisLeases("amqp://user:s3cret@host//", "test:", 1).acquire("key", "one", 60)


KEYS, OWNERS = st.sampled_from(["a", "b"]), st.sampled_from(["one", "two", "three"])


class LeaseModel(RuleBasedStateMachine):
    """Any schedule of the verbs, and of leases that run out, against a model in a dict."""

    leases: Leases

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"model:{uuid4().hex}:"
        self.client = environment.world().broker.client
        self.leases = RedisLeases(environment.world().broker.url, self.prefix, 5)
        self.held: dict[str, Lease] = {}
        self.highest = 0

    @rule(key=KEYS, owner=OWNERS)
    def acquire(self, key: str, owner: str) -> None:
        holder = self.held.get(key)
        lease = self.leases.acquire(key, owner, 600)
        if holder is None:
            assert lease is not None and lease.fence > self.highest
            self.highest, self.held[key] = lease.fence, lease
        else:
            assert lease == (holder if holder.owner == owner else None)

    @rule(key=KEYS, owner=OWNERS)
    def release(self, key: str, owner: str) -> None:
        holds = key in self.held and self.held[key].owner == owner
        assert self.leases.release(key, owner) == holds
        if holds:
            del self.held[key]

    @rule(key=KEYS, owner=OWNERS)
    def renew(self, key: str, owner: str) -> None:
        holds = key in self.held and self.held[key].owner == owner
        assert self.leases.renew(Lease(key, owner, 0), 600) == holds

    @rule(key=KEYS)
    def run_out(self, key: str) -> None:
        # What the clock does, done at once.
        self.client.pexpire(f"{self.prefix}lease:{key}", 0)
        self.held.pop(key, None)

    @rule(key=KEYS)
    def free(self, key: str) -> None:
        assert self.leases.free(key) == (self.held.pop(key, None) is not None)

    @invariant()
    def one_holder_each_and_it_expires(self) -> None:
        for key in ("a", "b"):
            holder = self.leases.holder(key)
            assert (holder.lease if holder else None) == self.held.get(key)
            assert holder is None or 0 < holder.seconds <= 600


def test_the_laws_hold_under_any_schedule(broker: Broker) -> None:
    quick = settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(LeaseModel, settings=quick)
