"""One tenant's many jobs do not keep another's few waiting. Real workers, one queue."""

from __future__ import annotations

import time

import pytest

from orchestrator.celery import get_app
from orchestrator.contracts.errors import InvalidOption
from orchestrator.deadletters.models import DeadLetter
from orchestrator.monitoring import queues
from tests.conftest import Platform
from tests.support import far_side, inflight, limited
from tests.support.limited import shared
from tests.support.wait import eventually
from tests.support.zoo import add

pytestmark = [pytest.mark.django_db(transaction=True)]
FEW = 10


def done(prefix: str) -> int:
    return sum(1 for effect in far_side.effects() if effect["key"].startswith(prefix))


def waited(tenant: str) -> float:
    """Send a few jobs and return how long all of them took."""
    begun = time.monotonic()
    for number in range(FEW):
        shared.delay(f"{tenant}-{number}", tenant, 0.05)
    eventually(lambda: done(tenant) == FEW, 30)
    return time.monotonic() - begun


def test_a_quiet_tenant_waits_at_most_twice_as_long_as_on_an_empty_queue(platform: Platform) -> None:
    worker = platform.worker(concurrency=2, env=limited.ENV)
    alone = waited("first")
    for number in range(400):
        shared.delay(f"busy-{number:03}", "busy", 0.02)
    eventually(lambda: done("busy") > 5, message=worker.tail)
    assert sum(queue.ready for queue in queues.ready(5)) > 300, "what is sorted is still counted"
    beside = waited("second")
    assert done("busy") < 200, "the busy tenant's backlog was still there"
    # A poll of the test and the job that runs as they arrive.
    assert beside <= 2 * alone + 0.3
    add.delay(1, 2).get(timeout=10)
    eventually(lambda: done("busy") == 400, 30)
    order = [effect["key"] for effect in far_side.effects() if effect["key"].startswith("busy")]
    assert max(abs(place - int(key[5:])) for place, key in enumerate(order)) <= 2
    eventually(lambda: not inflight.count(platform.broker.client))
    assert not DeadLetter.objects.exists()


def test_a_purge_leaves_nothing_behind(platform: Platform) -> None:
    worker = platform.worker(env=limited.ENV)
    for number in range(50):
        shared.delay(f"a-{number}", "a", 0.1)
    eventually(lambda: done("a") >= 2, message=worker.tail)
    get_app().control.purge()
    eventually(lambda: not sum(queue.ready for queue in queues.ready(5)))
    assert done("a") < 50


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("x", None), {}, r"fairness_key='\{tenant\}' got tenant=None"),
        (("x", ["a"]), {}, r"got tenant=\['a'\]"),
        (("x", "a"), {"fairness_key": ""}, r"fairness_key gave ''"),
        (("x", "a"), {"fairness_key": "a", "fairness_weight": 0}, r"fairness_weight=0 must be"),
    ],
)
def test_what_names_no_tenant_is_refused_before_it_is_sent(
    platform: Platform, arguments: tuple[object, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        shared.apply_async(arguments, **options)
    assert not platform.broker.client.llen("celery")
