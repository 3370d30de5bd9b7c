"""Limited is not failed: messages wait outside of workers, in order, and start as soon as they may. Real workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator.deadletters.models import DeadLetter
from tests.support import environment, far_side, inflight, limited
from tests.support.limited import brisk
from tests.support.wait import eventually
from tests.support.worker import Worker

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def worker(django_db_setup: None) -> Iterator[Worker]:
    """One worker for most tests here: starting it is the slow part."""
    environment.world().broker.flush()
    with Worker(concurrency=2, env=limited.ENV) as worker:
        yield worker


@pytest.fixture
def running(worker: Worker, transactional_db: None) -> Worker:
    """A running worker, nothing on the far side, nothing counted."""
    far_side.clear()
    client = environment.world().broker.client
    for pattern in ("limit:*", "parked:*", "limits:*"):
        for key in client.keys(f"orchestrator:{pattern}"):
            client.delete(key)
    return worker


def parked() -> int:
    return int(environment.world().broker.client.hlen("orchestrator:parked:messages"))


def order() -> list[str]:
    return [effect["key"] for effect in far_side.effects()]


def test_no_more_than_the_rate_and_in_order(running: Worker) -> None:
    """A backlog of 50 at 20/s takes two windows, and keeps its order as far as two processes can."""
    for number in range(50):
        brisk.delay(f"{number:02}")
    eventually(lambda: len(order()) == 50, 20, lambda: f"{len(order())} done, {parked()} parked")
    times = [effect["at"] for effect in far_side.effects()]
    assert times[-1] - times[0] < 3.5
    displaced = max(abs(place - int(key)) for place, key in enumerate(order()))
    assert displaced <= 2, " ".join(order())
    assert not parked()
    assert not inflight.count(environment.world().broker.client)
    assert not DeadLetter.objects.exists()
