"""Keys while workers die and the state is away: held no longer than a lease, and never run twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.conftest import Platform
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.charges import pay
from tests.support.wait import eventually, stays

pytestmark = [pytest.mark.django_db(transaction=True)]


def paid(order: str) -> int:
    return len(far_side.effects(f"pay-{order}"))


def value(sent: Any) -> Any:
    return sent.get(timeout=60)


def test_a_killed_worker_frees_its_keys_within_the_lease(platform: Platform) -> None:
    """Nobody is left to give it back, so it runs out; a copy that waits takes over by itself."""
    lease = 3.0
    worker = platform.worker(env={"ORCHESTRATOR_TEST_LEASE": str(lease)})
    pay.delay("a", until="go")
    eventually(lambda: paid("a") == 1)
    worker.kill_group()
    platform.worker(env={"ORCHESTRATOR_TEST_LEASE": str(lease)})
    copy = pay.delay("a", until="go")
    far_side.record("go")
    assert value(copy)["receipt"] == "a-2"


def test_a_living_owner_keeps_its_key_past_the_lease(platform: Platform) -> None:
    """Renewal goes on while the body runs."""
    platform.worker(concurrency=2, env={"ORCHESTRATOR_TEST_LEASE": "2.0"})
    sent = [pay.delay("a", until="go"), pay.delay("a", until="go")]
    eventually(lambda: paid("a") == 1)
    stays(lambda: paid("a") == 1, 5.0)
    far_side.record("go")
    assert [value(one)["receipt"] for one in sent] == ["a-1", "a-1"]


# --- fails closed ---------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Broker]:
    """A Redis of its own for keys, so that it can go while the broker stays."""
    made = Broker(tmp_path / "state").start()
    yield made
    made.stop()


def test_no_body_runs_while_the_state_is_away(platform: Platform, state: Broker) -> None:
    """Messages are deferred, without a retry and without a letter, and run once when it is back."""
    worker = platform.worker(env={"ORCHESTRATOR_STATE_URL": state.url})
    state.kill()
    sent = [pay.delay("a") for _ in range(3)]
    eventually(lambda: worker.log.count("its key cannot be looked up") >= 4, message=worker.tail)
    assert paid("a") == 0
    state.start()
    assert [value(one)["receipt"] for one in sent] == ["a-1"] * 3
    assert paid("a") == 1
    client = redis.Redis.from_url(state.url)
    assert client.xlen("orchestrator:letters") == 0


def test_an_effect_is_recorded_after_the_state_came_back(platform: Platform, state: Broker) -> None:
    """It goes away while the body runs: the end waits, and no copy runs meanwhile."""
    worker = platform.worker(concurrency=2, env={"ORCHESTRATOR_STATE_URL": state.url})
    first = pay.delay("a", until="go")
    eventually(lambda: paid("a") == 1)
    state.kill()
    second = pay.delay("a", until="go")
    far_side.record("go")
    eventually(lambda: "is not recorded yet" in worker.log, message=worker.tail)
    assert not first.ready()
    state.start()
    assert value(first) == value(second) == {"receipt": "a-1", "amount": 1}
    assert paid("a") == 1
