"""Tasks that note on the far side what they did, under the key that a test gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import chain, chord, group, shared_task

from orchestrator import Retries, task
from tests.support import far_side
from tests.support.wait import eventually, pause


@task(bind=True)
def note(self: Any, value: Any, key: str) -> Any:
    """Note a value and return it."""
    request = self.request
    far_side.record(key, value=value, id=request.id, root=request.root_id, parent=request.parent_id)
    return value


@task
def add(x: int, y: int, key: str = "add") -> int:
    """Note and return a sum."""
    far_side.record(key, value=x + y)
    return x + y


@task
def total(numbers: Sequence[int], key: str) -> int:
    """Note what a header gave; return its sum."""
    far_side.record(key, value=numbers)
    return sum(numbers)


@task
def fail(*_: Any, key: str, text: str = "no such order") -> None:
    """Note that it ran; fail."""
    far_side.record(key)
    raise LookupError(text)


@task
def slow(value: Any, key: str, seconds: float) -> Any:
    """Take some time."""
    pause(seconds)
    far_side.record(key, value=value)
    return value


@task
def hold(key: str) -> str:
    """Keep a process busy until the test notes ``KEY:go``."""
    far_side.record(key)
    eventually(lambda: far_side.effects(f"{key}:go"), 60, "the test lets it go")
    return key


# --- errbacks --------------------------------------------------------------------------------


@task
def told_id(task_id: str, key: str) -> None:
    """Be an errback that takes one argument, and so is published with the id of what failed."""
    far_side.record(key, value=task_id)


@task
def told_all(request: Any, error: Any, traceback: Any, key: str) -> None:
    """Be an errback that takes three arguments, and so is called where the task failed."""
    far_side.record(key, value=[request.id, type(error).__name__, str(error)])


# --- replace ---------------------------------------------------------------------------------


@task(bind=True)
def become(self: Any, value: int, key: str, what: str) -> Any:
    """Be replaced by something that adds one to the value, three times over where it is more than one task."""
    far_side.record(key, value=what)
    if what == "task":
        raise self.replace(add.s(value, 1, key=f"{key}:new"))
    if what == "chain":
        raise self.replace(chain(add.s(value, 1, key=f"{key}:new"), add.s(1, key=f"{key}:new")))
    if what == "group":
        raise self.replace(group(add.s(value, n, key=f"{key}:new") for n in range(3)))
    if what == "chord":
        raise self.replace(chord([add.s(value, n, key=f"{key}:new") for n in range(3)], total.s(key=f"{key}:new:body")))
    if what == "again":
        # A task that is replaced by a task that is replaced.
        raise self.replace(become.s(value, key, "task"))
    raise self.replace(fail.s(key=f"{key}:new"))


# --- retries ---------------------------------------------------------------------------------


def _attempt(request: Any, value: Any, key: str, good_after: int) -> Any:
    far_side.record(key, value=request.retries, id=request.id)
    if request.retries < good_after:
        raise ConnectionError(f"attempt {request.retries}")
    return value


@shared_task(bind=True, autoretry_for=(ConnectionError,), max_retries=3, retry_backoff=False, default_retry_delay=0.01)
def autoretried(self: Any, value: Any, key: str, good_after: int) -> Any:
    """Retry in Celery's own way."""
    return _attempt(self.request, value, key, good_after)


@task(bind=True, retries=Retries(on=(ConnectionError,), limit=3, base=0.05, jitter=False))
def declared(self: Any, value: Any, key: str, good_after: int) -> Any:
    """Retry in ours."""
    return _attempt(self.request, value, key, good_after)


@task(bind=True, max_retries=5)
def asks_again(self: Any, value: int, key: str, times: int, countdown: float = 0.0) -> int:
    """Retry by hand with another argument each time."""
    far_side.record(key, value=[self.request.retries, value], id=self.request.id)
    if self.request.retries < times:
        raise self.retry(args=(value + 1, key, times, countdown), countdown=countdown)
    return value


# --- stamps ----------------------------------------------------------------------------------


@task(bind=True)
def stamped(self: Any, value: Any, key: str) -> Any:
    """Note the stamps that arrived."""
    request = self.request
    far_side.record(key, value={"headers": sorted(request.stamped_headers or ()), "stamps": request.stamps})
    return value
