"""The private broker of a test run: a real Valkey that nobody else uses."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import redis

from orchestrator.launch.broker import EmbeddedBroker


class Broker:
    """A Valkey that can be stopped, killed and started again on the same port, with its data."""

    def __init__(self, directory: Path, *, persistent: bool = True) -> None:
        self._server = EmbeddedBroker(directory, persistent=persistent)
        #: Where it keeps its data.
        self.home = directory / "broker"
        self.url = ""
        self.client: redis.Redis

    @property
    def pid(self) -> int:
        """Process id of the server, 0 while it is stopped."""
        return self._server.pid

    def start(self) -> Broker:
        """Start it (again), wait until it answers."""
        self.url = self._server.start()
        self.client = redis.Redis.from_url(self.url)
        return self

    def stop(self) -> None:
        """Shut it down in order."""
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL it."""
        process = self._server.process
        assert process is not None, "the broker does not run"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def flush(self) -> None:
        """Empty it. Only while no worker is connected: kombu keeps its bindings there."""
        self.client.flushall()
