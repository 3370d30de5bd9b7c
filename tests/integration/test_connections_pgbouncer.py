"""Workers, relays and pages behind a real pgbouncer that gives every transaction another connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection, connections, transaction
from django.test import Client
from django_celery_results.models import TaskResult

from orchestrator.monitoring import database_checks
from tests.seams.outbox_tasks import backend
from tests.support import database, far_side, masses, pgbouncer
from tests.support.inbox import person
from tests.support.outbox import due_now, waiting
from tests.support.passing import check_results_and_outbox
from tests.support.pgbouncer import PgBouncer
from tests.support.pooled import walk
from tests.support.visitor import Visitor
from tests.support.wait import eventually
from tests.support.worker import Relay, Web, Worker
from tests.support.zoo import add, follow

pytestmark = [pytest.mark.database, pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

IMPORTS = "tests.seams.outbox_tasks,tests.support.pooled"


@pytest.fixture(scope="module")
def bouncer(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    """One that stands before the test database."""
    if pgbouncer.program() is None:
        pytest.skip("no pgbouncer (on Debian: apt-get install pgbouncer)")
    with pgbouncer.running(tmp_path_factory.mktemp("bouncer"), database.live_url()) as made:
        yield made


def env(bouncer: PgBouncer) -> dict[str, str]:
    """Return the variables of a process that is set up as our documentation says."""
    return {"ORCHESTRATOR_TEST_IMPORTS": IMPORTS, "DATABASE_URL": f"{bouncer.url}?DISABLE_SERVER_SIDE_CURSORS=true"}


@pytest.fixture(scope="module")
def started(bouncer: PgBouncer, shared: Any) -> Iterator[Worker]:
    """One process that runs tasks; two relays."""
    variables = env(bouncer)
    worker = Worker(pool="swarm", concurrency=1, env=variables)
    with shared(worker, Relay(env=variables), Relay(env=variables)):
        yield worker


@pytest.fixture
def worker(started: Worker, transactional_db: None) -> Worker:
    """A running worker and an empty database."""
    far_side.clear()
    return started


def test_results_are_written_and_only_what_commits_is_sent(worker: Worker) -> None:
    check_results_and_outbox(worker)


def test_relays_keep_the_order_of_a_key(worker: Worker) -> None:
    """What a publisher left behind is swept by both relays, through whatever connection each statement gets."""
    for number in range(20):
        with transaction.atomic():
            follow.apply_async((number, "in turn"), ordering_key="customer")
            # As if its process had died here.
            connection.run_on_commit = []
    due_now()
    eventually(lambda: len(far_side.effects("in turn")) == 20, 30, worker.tail)
    eventually(lambda: not waiting().exists(), 30)


def test_every_task_meets_a_connection_that_works(worker: Worker) -> None:
    """The process keeps its own to pgbouncer, and meets several of the server's."""
    found: list[Any] = []

    def several() -> bool:
        found.append(backend.delay().get(timeout=30))
        return len({used for _, used in found}) > 1

    # It opens connections of its own accord, one by one.
    eventually(several, 30, worker.tail)
    assert len({pid for pid, _ in found}) == 1


def test_a_killed_pgbouncer_costs_no_task(worker: Worker, bouncer: PgBouncer) -> None:
    before = backend.delay().get(timeout=30)
    bouncer.kill_group()
    bouncer.wait()
    bouncer.start()
    assert backend.delay().get(timeout=30)[0] == before[0]
    written = add.delay(1, 2)
    assert written.get(timeout=30) == 3
    eventually(lambda: TaskResult.objects.filter(task_id=written.id).exists(), 30, worker.tail)


def test_rows_can_be_read_as_they_come(worker: Worker) -> None:
    """With DISABLE_SERVER_SIDE_CURSORS a query's rows are no cursor of a connection that is another's by then."""
    TaskResult.objects.bulk_create(TaskResult(task_id=f"row-{number}") for number in range(300))
    assert walk.delay(300).get(timeout=30) == 300


def test_pages_of_the_admin_answer(bouncer: PgBouncer, platform: Any) -> None:
    masses.fill(30, 10)
    client = Client()
    client.force_login(person("admin"))
    visitor = Visitor(platform.start(Web(env=env(bouncer))).url)
    visitor.cookies["sessionid"] = client.cookies["sessionid"].value
    pages = masses.pages()
    assert len(pages) > 3
    for path in pages.values():
        assert visitor.get(path).status == 200, path


@pytest.fixture(scope="module")
def through(bouncer: PgBouncer) -> Iterator[dict[str, Any]]:
    """Settings of a database that is reached through pgbouncer, under the name 'through'."""
    django_settings.DATABASES["through"] = {
        **connections["default"].settings_dict,
        "HOST": "127.0.0.1",
        "PORT": bouncer.port,
        "DISABLE_SERVER_SIDE_CURSORS": False,
    }
    try:
        yield django_settings.DATABASES["through"]
    finally:
        connections["through"].close()
        del connections["through"]
        del django_settings.DATABASES["through"]


@pytest.mark.django_db(transaction=True, databases=["default", "through"])
def test_deploy_finds_cursors_that_a_pooler_takes_away(through: dict[str, Any]) -> None:
    """Only where transactions of two connections met in one of the server's."""
    (said,) = database_checks.check_poolers(databases=["default", "through"])
    assert said.id == "orchestrator.W024"
    assert "'through'" in said.msg
    through["DISABLE_SERVER_SIDE_CURSORS"] = True
    assert database_checks.check_poolers(databases=["default", "through"]) == []
