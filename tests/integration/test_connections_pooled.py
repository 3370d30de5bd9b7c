"""Workers and relays whose connections come from Django's psycopg pool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.db import connection

from tests.conftest import Platform
from tests.seams.outbox_tasks import backend
from tests.support import database, far_side
from tests.support.passing import check_results_and_outbox
from tests.support.pooled import die, look, tell
from tests.support.wait import eventually
from tests.support.worker import Relay, Worker
from tests.support.zoo import end

pytestmark = [pytest.mark.database, pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

IMPORTS = {"ORCHESTRATOR_TEST_IMPORTS": "tests.seams.outbox_tasks,tests.support.pooled"}
#: The queue of a worker beside the one that all tests share.
OWN = "own"
EARLY = {"ORCHESTRATOR_TEST_IMPORTS": "tests.seams.outbox_tasks,tests.support.pooled,tests.support.early"}


def pooled(**options: int) -> dict[str, str]:
    """Return the variables of a process with a pool, and with Django's default: nothing is asked to be checked."""
    wanted = ",".join(f'"{name}":{value}' for name, value in options.items())
    return {**IMPORTS, "DATABASE_URL": f"{database.live_url()}?CONN_HEALTH_CHECKS=false&pool={quote(f'{{{wanted}}}')}"}


@pytest.fixture(scope="module", params=["swarm", "prefork"])
def started(request: pytest.FixtureRequest, shared: Any) -> Iterator[Worker]:
    """One process that runs tasks, with one connection; a relay."""
    one = pooled(min_size=1, max_size=1)
    with shared(Worker(pool=request.param, concurrency=1, env=one), Relay(env=one)) as (worker, _):
        yield worker


@pytest.fixture
def worker(started: Worker, transactional_db: None) -> Worker:
    """A running worker and an empty database."""
    far_side.clear()
    return started


def test_results_are_written_and_only_what_commits_is_sent(worker: Worker) -> None:
    check_results_and_outbox(worker)


def test_a_connection_is_back_in_its_pool_after_each_task(worker: Worker) -> None:
    """Of one connection every task gets its turn, whatever became of the one before."""
    first = backend.delay().get(timeout=30)
    eventually(lambda: _state(first[1]) == "idle", 10)
    assert backend.delay().get(timeout=30) == first
    end.delay("fail").get(timeout=30, propagate=False)
    assert backend.delay().get(timeout=30)[0] == first[0]


def test_a_connection_that_died_in_its_pool_costs_no_task(worker: Worker) -> None:
    before = backend.delay().get(timeout=30)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [before[1]])
    eventually(lambda: _state(before[1]) is None, 10)
    after = backend.delay().get(timeout=30)
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_threads_share_a_pool_and_its_limit(platform: Platform) -> None:
    worker = platform.start(Worker(pool="threads", concurrency=4, queues=[OWN], env=pooled(min_size=1, max_size=2)))
    sent = [backend.apply_async((0.1,), queue=OWN) for _ in range(12)]
    found = [each.get(timeout=30) for each in sent]
    assert len({pid for pid, _ in found}) == 1, worker.tail()
    assert len({used for _, used in found}) == 2


@pytest.mark.parametrize("pool", ["swarm", "prefork"])
def test_no_process_uses_the_pool_of_its_parent(platform: Platform, pool: str) -> None:
    """Neither one that was opened by an import, nor one that the parent opened later, to settle a lost task."""
    env = {**pooled(min_size=2, max_size=2), **EARLY}
    worker = platform.start(Worker(pool=pool, concurrency=2, queues=[OWN], env=env))
    parents = [] if pool == "swarm" else [worker.pid]
    for _ in range(2):
        far_side.clear()
        # The second has its process replaced after the first was settled.
        die.apply_async(queue=OWN, link_error=tell.s()).get(timeout=60, propagate=False)
        eventually(lambda: far_side.effects("settled"), 30, worker.tail)
    (settled,) = far_side.effects("settled")
    assert (settled["pid"] in parents) is (pool == "prefork")
    worker.wait_for_children(2)
    found: dict[int, dict[str, Any]] = {}

    def both() -> bool:
        for told in [look.apply_async(queue=OWN) for _ in range(4)]:
            seen = told.get(timeout=30)
            found[seen["pid"]] = seen
        return len(found) >= 2

    eventually(both, 30, worker.tail)
    assert len({seen["backend"] for seen in found.values()}) == len(found)
    assert settled["backend"] not in {seen["backend"] for seen in found.values()} or pool == "swarm"
    # A pool of its own, whose threads live.
    assert all(seen["threads"] for seen in found.values())
    if pool == "prefork":
        # What the parent has is untouched.
        assert _state(settled["backend"]) is not None


def _state(pid: int) -> str | None:
    """Say what a process of the server does; None if it is gone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT state FROM pg_stat_activity WHERE pid = %s", [pid])
        row = cursor.fetchone()
        return str(row[0]) if row else None
