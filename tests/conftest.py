"""Fixtures and rules of every test. The world itself is made in :mod:`tests.settings`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from django.core.management import call_command

from tests.support import database, environment, far_side
from tests.support.broker import Broker
from tests.support.process import Process
from tests.support.worker import ROWS_AT_ONCE, Flower, Relay, Scheduler, Web, Worker

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
Started = TypeVar("Started", bound=Process)
PROCESSES = pytest.StashKey[list[Process]]()


# --- rules ----------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; unknown ones are refused by ``--strict-markers``."""
    config.addinivalue_line("markers", "postgresql: only on PostgreSQL (TEST_DATABASE=postgresql)")
    config.addinivalue_line("markers", "sqlite: only on SQLite, the default")
    config.addinivalue_line("markers", "database: what it shows may differ between databases; CI runs it on both")
    config.addinivalue_line("markers", "browser: drives a real browser")
    config.addinivalue_line("markers", "rabbitmq: needs RabbitMQ, of which it starts a node of its own")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share out the whole suite, which waits more than it works; what somebody names runs in one process."""
    return min((os.cpu_count() or 1) + 1, 8) if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of the other database: deselected, not skipped, since another run has them.

    Keep tests that share something expensive in one process.
    """
    for item in items:
        if shared := _shared(item):
            item.add_marker(pytest.mark.xdist_group(shared))
    other = "sqlite" if database.wanted() == "postgresql" else "postgresql"
    out = [item for item in items if item.get_closest_marker(other)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if not item.get_closest_marker(other)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Give tests the names that pytest-xdist made for them, by which it groups them.

    From pytest 9.2 on it writes them where nobody looks (pytest-xdist 3.8), and groups nothing.
    """
    try:
        from _pytest.nodeid import NodeId
    except ImportError:
        return
    for item in session.items:
        named = getattr(item, "_nodeid", "")
        if named and named != item.nodeid:
            item._id = NodeId.parse(named)


def _shared(item: pytest.Item) -> str:
    """Name the fixtures of our own that a test shares with others, with their parameters; empty for none."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return " ".join(
        f"{definition.baseid}:{name}:{parameters.get(name, '')}"
        for name, (*_, definition) in sorted(item._fixtureinfo.name2fixturedefs.items())  # type: ignore[attr-defined]
        # Those of this file are for everybody, and cheap.
        if definition.scope in ("module", "package", "session") and definition.baseid.startswith("tests/")
    )


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CI has everything that the tests need, so nothing may be skipped there: {why}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Turn a skip into a failure in CI; show the logs of a failed test's processes."""
    report: pytest.TestReport = yield
    _forbid_skip(report)
    if report.failed and report.when != "teardown":
        for process in item.stash.get(PROCESSES, []):
            report.sections.append((f"log of {process.name}", process.tail(100)))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Any:
    """Turn a skipped module into a failure in CI."""
    report: pytest.CollectReport = yield
    _forbid_skip(report)
    return report


@pytest.fixture(scope="session")
def django_db_modify_db_settings_xdist_suffix() -> None:
    """Leave the database's name alone: every process has a world of its own."""


# --- parts of the platform --------------------------------------------------------


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Callable[[Started], Started]]:
    """``start(Worker(...))``: start a process that is stopped at the end of the test."""
    started: list[Process] = request.node.stash.setdefault(PROCESSES, [])

    def _start(process: Started) -> Started:
        started.append(process)
        process.start()
        return process

    yield _start
    with contextlib.ExitStack() as stopping:
        # A stack, so that one that does not end in order is reported and the others are stopped all the same.
        for process in started:
            stopping.callback(process.__exit__)


@pytest.fixture(scope="session")
def shared(django_db_setup: None, django_db_blocker: Any) -> Callable[..., contextlib.AbstractContextManager[Any]]:
    """``with shared(Worker(...), Relay()) as (worker, relay)``: what all tests of a module use.

    Each test empties the database as it ends, but these processes end later, and write until then.
    """

    @contextlib.contextmanager
    def _share(*processes: Process) -> Iterator[tuple[Process, ...]]:
        environment.world().broker.flush()
        with contextlib.ExitStack() as stack:
            yield tuple(stack.enter_context(process) for process in processes)
        with django_db_blocker.unblock():
            call_command("flush", verbosity=0, interactive=False)

    return _share


@pytest.fixture
def broker() -> Broker:
    """The private broker, empty; nobody remembers that it was ever away."""
    from kombu import pools

    from orchestrator.celery import get_app
    from orchestrator.outbox import sending

    sending.rest(0)
    # A test before this one may have killed it: what the pools hold then is dead.
    pools.reset()
    app = get_app()
    app._pool = app.amqp._producer_pool = None
    made = environment.world().broker
    made.flush()
    return made


@dataclass
class Platform:
    """What a test of the whole needs: an empty broker and database, processes on demand."""

    broker: Broker
    _start: Callable[[Any], Any]
    processes: list[Process] = field(default_factory=list)

    def start(self, process: Started) -> Started:
        """Start a process that ends with the test."""
        self.processes.append(process)
        started: Started = self._start(process)
        return started

    def worker(self, **options: Any) -> Worker:
        """Start a worker that needs no relay for its results; see :class:`tests.support.worker.Worker`."""
        env = {**ROWS_AT_ONCE, **(options.pop("env", None) or {})}
        return self.start(Worker(**options, env=env))

    def relay(self, **options: Any) -> Relay:
        """Start a relay."""
        return self.start(Relay(**options))

    def scheduler(self, **options: Any) -> Scheduler:
        """Start a scheduler."""
        return self.start(Scheduler(**options))

    def flower(self, **options: Any) -> Flower:
        """Start a Flower."""
        return self.start(Flower(**options))

    def web(self, **options: Any) -> Web:
        """Start a web server."""
        return self.start(Web(**options))


@pytest.fixture
def platform(transactional_db: None, broker: Broker, start: Callable[[Any], Any]) -> Platform:
    """Empty broker, committed database, forgotten far side; ``platform.worker()``, ``.relay()``…"""
    far_side.clear()
    return Platform(broker, start)
