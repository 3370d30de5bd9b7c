"""Servers of each kind that the platform promises to run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.support import servers


@pytest.fixture(scope="module", params=servers.NAMES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server of each kind."""
    with servers.running(request.param, tmp_path_factory.mktemp("server")) as url:
        yield redis.Redis.from_url(url)


@pytest.fixture
def emptied(server: redis.Redis) -> redis.Redis:
    """The same, with nothing on it."""
    server.flushall()
    return server
