"""A far side that fails is left alone; its tasks wait and run when it is well again. Real workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django_celery_results.models import TaskResult

from orchestrator.contracts.breaker import Forced, State
from orchestrator.deadletters.models import DeadLetter
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.leases import RedisLeases
from tests.conftest import Platform
from tests.support import circuits, environment, far_side
from tests.support.broker import Broker
from tests.support.circuits import end, reach
from tests.support.wait import eventually, stays
from tests.support.worker import Worker

pytestmark = [pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def worker(django_db_setup: None) -> Iterator[Worker]:
    """One worker for most tests here: starting it is the slow part."""
    environment.world().broker.flush()
    with Worker(pool="swarm", concurrency=2, env=circuits.ENV) as made:
        yield made


@pytest.fixture
def running(worker: Worker, transactional_db: None) -> Worker:
    """A running worker, nothing on the far side, breakers that nobody knows."""
    far_side.clear()
    client = environment.world().broker.client
    for key in client.keys("orchestrator:*breaker*"):
        client.delete(key)
    return worker


def breakers(url: str = "") -> RedisBreakers:
    return RedisBreakers(RedisLeases(url or environment.world().broker.url, "orchestrator:", 5))


def reached() -> int:
    return len(far_side.effects("reached"))


def test_it_opens_and_no_retry_is_burnt_until_a_probe_succeeds(running: Worker) -> None:
    """Ten tasks with a far side that is down: a handful of calls, not hundreds; then all run."""
    sent = [reach.delay(str(number)) for number in range(10)]
    eventually(lambda: breakers().show("far").state is not State.CLOSED)
    stays(lambda: reached() <= 9, 1.5, "it is left alone")
    assert not DeadLetter.objects.exists()
    far_side.record("up")
    assert [one.get(timeout=60) for one in sent] == [str(number) for number in range(10)]
    assert breakers().show("far").state is State.CLOSED
    assert max(effect["retries"] for effect in far_side.effects("reached")) <= 5
    for said in ("is open for 1 s", "is the probe of breaker 'far'", "is closed again"):
        assert said in running.log
    assert not TaskResult.objects.filter(status="FAILURE").exists()


def test_deaths_count_and_permanent_errors_do_not(running: Worker) -> None:
    _die()


def test_deaths_count_with_a_pool_of_celerys(platform: Platform) -> None:
    platform.worker(pool="prefork", env=circuits.ENV)
    _die()


def _die() -> None:
    for _ in range(3):
        end.delay("permanent")
    eventually(lambda: breakers().show("fragile").good == 3)
    assert breakers().set("fragile", None)
    end.delay("well")
    end.delay("die")
    eventually(lambda: breakers().show("fragile").state is State.OPEN)


def test_people_hold_it_open_and_let_it_go(running: Worker) -> None:
    far_side.record("up")
    assert reach.delay("first").get(timeout=60) == "first"
    assert breakers().set("far", Forced.OPEN)
    sent = reach.delay("second")
    stays(lambda: reached() == 1, 0.7)
    assert breakers().set("far", None)
    assert sent.get(timeout=60) == "second"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Broker]:
    """A Redis of its own, so that it can go while the broker stays."""
    made = Broker(tmp_path / "state").start()
    yield made
    made.stop()


def test_while_the_state_is_away_tasks_run(platform: Platform, state: Broker) -> None:
    """Open, whatever a person had decided."""
    worker = platform.worker(env={**circuits.ENV, "ORCHESTRATOR_STATE_URL": state.url})
    far_side.record("up")
    assert reach.delay("first").get(timeout=60) == "first"
    breakers(state.url).set("far", Forced.OPEN)
    state.kill()
    assert reach.delay("second").get(timeout=60) == "second"
    assert "its breaker cannot be asked" in worker.log
