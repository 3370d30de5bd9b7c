"""The world outside: an append-only record of what tasks really did.

A task writes one line per effect; a test counts them. The record is a file, so it
outlives a killed worker, broker or database, and one write with ``O_APPEND`` is
never torn or interleaved.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any


def _path() -> Path:
    return Path(os.environ["ORCHESTRATOR_TEST_DIR"]) / "far_side.jsonl"


def record(key: str, **detail: Any) -> None:
    """Have an effect under ``key``; call it from a task."""
    line = json.dumps({"key": key, "pid": os.getpid(), "at": time.time(), **detail}) + "\n"
    descriptor = os.open(_path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def effects(key: str | None = None) -> list[dict[str, Any]]:
    """Return what happened, in order, under one key or at all."""
    try:
        lines = _path().read_text().splitlines()
    except FileNotFoundError:
        return []
    seen = [json.loads(line) for line in lines]
    return seen if key is None else [effect for effect in seen if effect["key"] == key]


def counts() -> Counter[str]:
    """Return how often each key took effect."""
    return Counter(effect["key"] for effect in effects())


def clear() -> None:
    """Forget everything; before a test, never while a worker runs."""
    _path().unlink(missing_ok=True)
