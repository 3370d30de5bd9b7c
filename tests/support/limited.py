"""Tasks under limits, which tell on the far side when they start and end."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from orchestrator import Concurrency, Defer, RateLimit, RateLimited, fencing, task
from orchestrator.contracts.message import HEADER
from tests.support import environment, far_side
from tests.support.wait import eventually

#: What a worker needs to know them: ``env=limited.ENV``.
ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.limited"}


BRISK = RateLimit("brisk", "20/s")


@task(ignore_result=True, limits=[BRISK])
def brisk(key: str) -> None:
    """Run at most 20 times a second."""
    far_side.record(key)


@task(ignore_result=True, limits=[RateLimit("slow", "2/h", key="{account}")])
def slow(key: str, account: str) -> None:
    """Run at most twice an hour for each account."""
    far_side.record(key)


@task(bind=True, ignore_result=True, limits=[Concurrency("room", 1)])
def alone(self: Any, key: str, until: str = "", die: bool = False, seconds: float = 0.0) -> None:
    """Be the only one; wait until the test notes ``until``, or die the first time."""
    far_side.record(f"{key}:start", fence=fencing(), retries=self.request.retries)
    if die and len(far_side.effects(f"{key}:start")) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if until:
        eventually(lambda: far_side.effects(until), 60, until)
    time.sleep(seconds)
    far_side.record(f"{key}:end")


@task(ignore_result=True)
def free(key: str, until: str = "") -> None:
    """Know no limits; wait until the test notes ``until``."""
    far_side.record(f"{key}:start")
    eventually(lambda: far_side.effects(until), 60, until)


@task(ignore_result=True, limits=[Concurrency("tenant:{tenant}", 1), RateLimit("mail", "50/s", weight=5)])
def both(key: str, tenant: str, until: str = "") -> None:
    """Be the only one of a tenant, and take five of fifty a second."""
    far_side.record(f"{key}:start")
    if until:
        eventually(lambda: far_side.effects(until), 60, until)
    far_side.record(f"{key}:end")


@task(bind=True, ignore_result=True, limits=[RateLimit("provider", "1000/s")])
def told(self: Any, key: str, refuse: int = 0, seconds: float = 0.5) -> None:
    """Be told "too many" by the far side so many times."""
    number = len(far_side.effects(key)) + 1
    far_side.record(key, retries=self.request.retries)
    if number <= refuse:
        raise RateLimited(retry_after=seconds)


def parked() -> int:
    """Return how many messages wait for limits."""
    return int(environment.world().broker.client.hlen("orchestrator:parked:messages"))


def forget() -> None:
    """Forget all counts, and drop what waits; while a worker runs."""
    client = environment.world().broker.client
    for pattern in ("limit:*", "limits:*", "parked:*"):
        for key in client.keys(f"orchestrator:{pattern}"):
            client.delete(key)


@task(ignore_result=True, fairness_key="{tenant}")
def shared(key: str, tenant: str, seconds: float = 0.0) -> None:
    """Share a queue fairly with other tenants."""
    time.sleep(seconds)
    far_side.record(key)


@task(bind=True, ignore_result=True)
def patient(self: Any, key: str, pauses: list[float]) -> None:
    """Put itself off for each of these seconds."""
    far_side.record(key)
    made = (self.request.get(HEADER) or {}).get("deferrals", 0)
    if made < len(pauses):
        raise Defer(pauses[made])
