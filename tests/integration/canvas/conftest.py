"""One worker for each way of running Celery's canvas: the swarm and prefork on Redis, prefork on RabbitMQ.

It serves every test of this package, one after another; so keys are made up for each test, and nothing is emptied
between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from django.core.management import call_command

from tests.conftest import PROCESSES
from tests.support import elsewhere, environment, far_side, rabbitmq
from tests.support.worker import Relay, Worker

#: Where the tasks are.
MODULES = "tests.integration.canvas.tasks,tests.support.limited,tests.support.calls"
#: RabbitMQ as the reference project's settings have it.
QUORUM = {
    "task_default_queue_type": "quorum",
    "task_create_missing_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "task_create_missing_queue_exchange_type": "topic",
}


@dataclass
class Stack:
    """A running worker of two processes, its relay, and what another process needs to join them."""

    name: str
    worker: Worker
    relay: Relay
    env: dict[str, str | None]

    @property
    def node(self) -> str:
        """Name of the worker for remote control."""
        return f"{self.worker.name}@test"

    def another(self, **options: object) -> Worker:
        """Return one more worker of the same kind, not started."""
        return Worker(pool=self.worker.pool, env=self.env, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="package", params=["swarm", "prefork", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def running(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The stack of this name."""
    world = environment.world()
    env: dict[str, str | None] = {"ORCHESTRATOR_TEST_IMPORTS": MODULES, "ORCHESTRATOR_TEST_LOW_PRIORITY_SHARE": "0"}
    with ExitStack() as stack:
        if request.param == "rabbitmq":
            if rabbitmq.program() is None:
                pytest.skip("no RabbitMQ (on Debian: apt-get install rabbitmq-server)")
            url = stack.enter_context(rabbitmq.running(tmp_path_factory.mktemp("rabbitmq")))
            stack.enter_context(elsewhere.pointed_at(url, state=world.broker.url, **QUORUM))
            env |= {"ORCHESTRATOR_BROKER_URL": url, "ORCHESTRATOR_STATE_URL": world.broker.url}
        world.broker.flush()
        pool = "swarm" if request.param == "swarm" else "prefork"
        with django_db_blocker.unblock():
            made = Stack(request.param, Worker(pool=pool, concurrency=2, env=env), Relay(env=env), env)
        # They start side by side.
        made.relay.launch()
        stack.enter_context(made.relay)
        stack.enter_context(made.worker)
        yield made
    with django_db_blocker.unblock():
        call_command("flush", verbosity=0, interactive=False)


@pytest.fixture(autouse=True)
def _django_db_marker() -> None:
    """Stand in for pytest-django's: emptying every table after every test would take longer than the tests."""


@pytest.fixture
def stack(running: Stack, request: pytest.FixtureRequest, django_db_blocker) -> Iterator[Stack]:
    """A running stack, and the database that it shares with the test."""
    request.node.stash.setdefault(PROCESSES, []).extend([running.worker, running.relay])
    with django_db_blocker.unblock():
        yield running


@pytest.fixture
def key() -> str:
    """A name of this test alone."""
    return uuid4().hex[:8]


@pytest.fixture
def start(stack: Stack) -> Iterator[Callable[[Worker], Worker]]:
    """``start(worker)``: one that ends with the test."""
    with ExitStack() as started:
        yield started.enter_context


def ran(key: str) -> list[dict]:
    """Return what bodies noted under a key, in order."""
    return far_side.effects(key)


def values(key: str) -> list[object]:
    """Return the values that bodies noted under a key, in order."""
    return [effect.get("value") for effect in ran(key)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every test of this directory have a database."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.django_db(transaction=True))
