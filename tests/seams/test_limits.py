"""Limited is not failed: messages wait outside of workers, in order, and start as soon as they may. Real workers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import RateLimited, limiter
from orchestrator.audit.models import AuditEntry
from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.limits import services
from orchestrator.monitoring import parked, queues
from orchestrator.runs.outgoing import store
from orchestrator.transport.pacing import MOST
from tests.support import environment, far_side, inflight, limited
from tests.support.limited import BRISK, alone, both, brisk, free, slow, told
from tests.support.wait import eventually, stays
from tests.support.worker import Worker
from tests.support.zoo import add

#: In a swarm each process starts what it claimed, and one claim may take so many: that far nobody promises an order.
AHEAD = MOST
LETTERS = "orchestrator:letters"

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module", params=["prefork", "swarm"])
def worker(request: pytest.FixtureRequest, shared: Any) -> Iterator[Worker]:
    """One worker for all tests here: starting it is the slow part."""
    with shared(Worker(pool=request.param, concurrency=2, env=limited.ENV)) as (worker,):
        yield worker


@pytest.fixture
def running(worker: Worker, transactional_db: None) -> Worker:
    """A running worker, nothing on the far side, nothing counted."""
    limited.forget()
    far_side.clear()
    return worker


def order(suffix: str = "") -> list[str]:
    return [effect["key"].removesuffix(suffix) for effect in far_side.effects() if effect["key"].endswith(suffix)]


def displaced(numbers: list[str]) -> int:
    """Return how far a number is from its place, at most."""
    return max(abs(place - int(number)) for place, number in enumerate(numbers))


def done(key: str) -> bool:
    return bool(far_side.effects(key))


def letters() -> int:
    """Return how many dead letters there are; no relay runs here that would make rows of them."""
    return int(environment.world().broker.client.xlen(LETTERS))


def clean() -> bool:
    """Whether nothing waits, nothing is held, and nothing went wrong."""
    client = environment.world().broker.client
    assert not letters()
    return not limited.parked() and not inflight.count(client) and not client.llen("celery")


def test_no_more_than_the_rate_and_in_order(running: Worker) -> None:
    """A backlog of 50 at 20/s takes two windows, and keeps its order as far as two processes can."""
    for number in range(50):
        brisk.delay(f"{number:02}")
    eventually(lambda: len(order()) == 50, 20, lambda: f"{len(order())} done, {limited.parked()} parked")
    times = [effect["at"] for effect in far_side.effects()]
    assert 1.9 < times[-1] - times[0] < 3.5
    # Each process starts what it claimed in order; between the two, one can be some messages ahead.
    assert displaced(order()) <= (10 if running.pool == "prefork" else AHEAD), " ".join(order())
    eventually(clean)


def test_a_limited_message_holds_no_worker_and_is_no_failure(running: Worker) -> None:
    """Five more than the limit wait where they are counted; both processes go on with other work."""
    limits = [slow.delay(f"a{number}", "a") for number in range(7)]
    eventually(lambda: limited.parked() == 5)
    slow.delay("b0", "b")
    eventually(lambda: done("b0"), message="every account is counted for itself")
    sent = [add.delay(number, 1) for number in range(10)]
    assert [one.get(timeout=30) for one in sent] == list(range(1, 11))
    assert sorted(key[0] for key in order()) == ["a", "a", "b"]
    assert inflight.count(environment.world().broker.client) <= 1, "an acknowledgement on its way, no more"
    assert not letters()
    assert {record.status for record in store().read([one.id for one in (*limits, *sent)]).values()} == {"SUCCESS"}


def test_a_changed_limit_acts_at_once_and_is_audited(running: Worker) -> None:
    for number in range(6):
        slow.delay(f"{number}", "a")
    eventually(lambda: limited.parked() == 4)
    (state,) = [state for state in services.states() if state.name == "slow"]
    assert (state.declared, state.changed, state.waiting) == ("2/h", "", 4)
    assert queues.parked(5) == {"slow|a": 4}
    (waiting, *_) = parked.listed("slow|a")
    assert (waiting.queue, waiting.task) == ("celery", slow.name)
    assert [found.limit for found in parked.find(waiting.task_id)] == ["slow|a"]
    services.change("slow", "5/h", actor="somebody")
    eventually(lambda: len(order()) == 5, 2)
    stays(lambda: limited.parked() == 1, 0.3)
    services.restore("slow", actor="somebody")
    stays(lambda: limited.parked() == 1, 0.3)
    services.change("slow", "1000/s")
    eventually(lambda: len(order()) == 6, 2)
    actions = AuditEntry.objects.order_by("id").values_list("action", "target", "actor")
    assert list(actions)[:2] == [("limit.change", "slow", "somebody"), ("limit.restore", "slow", "somebody")]
    eventually(clean)


def test_premium_goes_first(running: Worker) -> None:
    """Whoever waits with a higher priority is released first, and among equals who came first."""
    alone.delay("first", until="go")
    eventually(lambda: done("first:start"))
    for number in range(3):
        alone.delay(f"plain{number}")
    eventually(lambda: limited.parked() == 3)
    for number in range(2):
        alone.apply_async((f"premium{number}",), priority=9)
    eventually(lambda: limited.parked() == 5)
    far_side.record("go")
    eventually(lambda: len(order(":end")) == 6)
    assert order(":end") == ["first", "premium0", "premium1", "plain0", "plain1", "plain2"]
    eventually(clean)


def test_a_slot_is_free_while_its_process_goes_on_with_something_else(running: Worker) -> None:
    """What is given back waits for no other task's body."""
    free.delay("one", until="stop")
    eventually(lambda: done("one:start"))
    alone.delay("first", until="go")
    eventually(lambda: done("first:start"))
    free.delay("two", until="stop")
    far_side.record("go")
    eventually(lambda: done("two:start"))
    client = environment.world().broker.client
    eventually(lambda: not client.exists("orchestrator:limit:c:room"), 20)
    far_side.record("stop")
    eventually(clean)


def test_one_slot_is_never_held_twice(running: Worker) -> None:
    """Starts and ends alternate; each start has a higher fencing number; handing over costs no waiting."""
    for number in range(12):
        alone.delay(f"{number:02}", seconds=0.02)
    eventually(lambda: len(order(":end")) == 12)
    events = [effect["key"].split(":") for effect in far_side.effects()]
    assert [kind for _, kind in events] == ["start", "end"] * 12
    # Of two that are asking at the same moment, either may come first.
    assert displaced(order(":end")) <= (1 if running.pool == "prefork" else AHEAD), order(":end")
    starts = [effect for effect in far_side.effects() if effect["key"].endswith(":start")]
    fences = [effect["fence"] for effect in starts]
    assert fences == sorted(set(fences))
    assert starts[-1]["at"] - starts[0]["at"] < 3
    eventually(clean)


def test_a_killed_child_gives_its_slot_back_at_once(running: Worker) -> None:
    """The lease lasts half a minute; the process that settles for the dead one does not wait for it."""
    alone.delay("dead", die=True)
    alone.delay("next")
    eventually(lambda: done("next:end"), 15)
    eventually(lambda: letters() == 1)
    environment.world().broker.client.delete(LETTERS)


def test_the_far_sides_own_limit_is_heard(running: Worker) -> None:
    """``RateLimited`` keeps everybody away for as long as it says, and costs no retry."""
    told.delay("a", refuse=1, seconds=1.0)
    # What it was told has reached the limit once it waits there itself.
    eventually(lambda: done("a") and limited.parked() == 1)
    told.delay("b")
    eventually(lambda: done("b") and len(far_side.effects("a")) == 2, 10)
    first, second = far_side.effects("a")
    assert second["at"] - first["at"] >= 0.99
    assert far_side.effects("b")[0]["at"] - first["at"] >= 0.99
    assert second["retries"] == 0
    eventually(clean)


def test_several_limits_are_taken_together_or_not_at_all(running: Worker) -> None:
    """Four wait for their tenant; none of them has taken anything from the rate that all share."""
    both.delay("a0", "a", until="go")
    eventually(lambda: done("a0:start"))
    for number in range(1, 5):
        both.delay(f"a{number}", "a")
    eventually(lambda: limited.parked() == 4)
    begun = len(far_side.effects())
    for number in range(9):
        both.delay(f"b{number}", f"b{number}")
    eventually(lambda: len(order(":end")) == 9, 5)
    times = [effect["at"] for effect in far_side.effects()[begun:] if effect["key"].endswith(":start")]
    assert times[-1] - times[0] < 0.9, "nine of weight five fit beside the one that runs"
    far_side.record("go")
    eventually(lambda: len(order(":end")) == 14, 10)
    starts_and_ends = [effect["key"].split(":")[1] for effect in far_side.effects() if effect["key"][0] == "a"]
    assert starts_and_ends == ["start", "end"] * 5
    eventually(clean)


@pytest.mark.parametrize("account", [None, "", ["a"], {"id": 1}])
def test_what_cannot_be_a_key_is_refused_before_it_is_sent(transactional_db: None, account: object) -> None:
    with pytest.raises(InvalidOption, match=r"key='\{account\}' got account="):
        slow.delay("x", account)


def test_a_slot_held_outside_of_tasks_counts(running: Worker) -> None:
    """A web view or a command counts along; who waits is released as it ends."""
    with limiter.acquire("room"):
        alone.delay("a")
        eventually(lambda: limited.parked() == 1)
        with pytest.raises(RateLimited) as refused, limiter.acquire("room", timeout=0.2):
            pass
        assert refused.value.retry_after > 0
    eventually(lambda: done("a:end"), 5)
    begun = time.monotonic()
    for _ in range(21):
        with limiter.acquire(BRISK, timeout=2):
            pass
    assert 0.9 < time.monotonic() - begun < 2
    with pytest.raises(UnknownOption, match="did you mean 'room'"), limiter.acquire("rom"):
        pass
