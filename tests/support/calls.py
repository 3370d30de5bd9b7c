"""Tasks whose calls may be duplicates, one a mode."""

from __future__ import annotations

from typing import Any

from orchestrator import Deduplicate, Retries, task
from tests.support import far_side
from tests.support.wait import eventually

#: What a worker needs to know them: ``env=calls.ENV``.
ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.calls"}


def _run(self: Any, kind: str, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    far_side.record(f"{kind}-{key}", id=self.request.id, value=value, retries=self.request.retries)
    if until:
        eventually(lambda: far_side.effects(until), 60, until)
    if how == "fail" or (how == "retry" and self.request.retries < 1):
        raise ConnectionError("no")
    if how == "die":
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    return value


@task(bind=True, deduplication=Deduplicate("until_started", key="{key}"))
def start(self: Any, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    """Free its key when it starts."""
    return _run(self, "start", key, value, how, until)


@task(
    bind=True,
    deduplication=Deduplicate("until_finished", key="{key}"),
    retries=Retries(on=(ConnectionError,), limit=1, base=1.2, jitter=False),
)
def finish(self: Any, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    """Free its key when it is over."""
    return _run(self, "finish", key, value, how, until)


@task(bind=True, deduplication=Deduplicate("window", key="{key}", window=2.0))
def window(self: Any, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    """Run at most every two seconds."""
    return _run(self, "window", key, value, how, until)


@task(bind=True, deduplication=Deduplicate("debounce", key="{key}", window=1.5))
def debounce(self: Any, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    """Run when nobody has called for a while."""
    return _run(self, "debounce", key, value, how, until)


@task(bind=True, deduplication=Deduplicate("throttle", key="{key}", window=1.5))
def throttle(self: Any, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    """Start at most every second and a half."""
    return _run(self, "throttle", key, value, how, until)


@task(
    bind=True,
    deduplication=Deduplicate("latest", key="{key}"),
    retries=Retries(on=(ConnectionError,), limit=1, base=1.2, jitter=False),
)
def latest(self: Any, key: str, value: Any = None, how: str = "", until: str = "") -> Any:
    """Run the newest after the one that runs."""
    return _run(self, "latest", key, value, how, until)


def values(kind: str, key: str) -> list[Any]:
    """Return with what a task ran, in order."""
    return [effect["value"] for effect in far_side.effects(f"{kind}-{key}")]
