"""pytest fixtures of the test kit. Needs pytest-django."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

# Only what needs no settings is imported here: pytest loads plugins before Django is set up.


@pytest.fixture(scope="session")
def orchestrator_server() -> Iterator[str]:
    """A Valkey of this test run, and nobody else's; its URL."""
    import tempfile
    from pathlib import Path

    from orchestrator.launch.broker import EmbeddedBroker

    with tempfile.TemporaryDirectory(prefix="orchestrator-stores-") as directory:
        server = EmbeddedBroker(Path(directory), persistent=False)
        url = server.start()
        yield url
        server.stop()


@pytest.fixture
def orchestrator_stores(orchestrator_server: str) -> Iterator[str]:
    """Empty stores for this test: leases, records and letters are kept there; the server's URL."""
    import redis

    from orchestrator.testing.stores import use

    redis.Redis.from_url(orchestrator_server).flushall()
    with use(orchestrator_server):
        yield orchestrator_server


@pytest.fixture
def assert_idempotent(transactional_db: None, orchestrator_stores: str) -> Callable[..., int]:
    """``assert_idempotent(task, *args, **kwargs)``: see :func:`orchestrator.testing.check_idempotent`."""

    def check(task: Any, /, *args: Any, **kwargs: Any) -> int:
        from orchestrator.testing.idempotence import check_idempotent

        return check_idempotent(task, *args, **kwargs)

    return check
