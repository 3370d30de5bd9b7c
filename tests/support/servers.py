"""Servers of several makes and ages, for contracts that must hold on all of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from orchestrator.launch.ports import free_port
from tests.support.broker import Broker
from tests.support.wait import eventually

#: ``valkey`` is the one that the package brings, ``redis`` what the machine has as ``redis-server``.
NAMES = ["valkey", "redis"] if shutil.which("redis-server") else ["valkey"]


@contextmanager
def running(name: str, directory: Path) -> Iterator[str]:
    """Run a server; yield its URL."""
    if name == "valkey":
        broker = Broker(directory, persistent=False).start()
        try:
            yield broker.url
        finally:
            broker.stop()
        return
    program, port = shutil.which("redis-server"), free_port()
    assert program is not None
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        eventually(lambda: _answers(url), 30, "redis-server answers")
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return bool(redis.Redis.from_url(url).ping())
    except redis.ConnectionError:
        return False
