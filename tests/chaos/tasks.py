"""Tasks that take long enough to be hit."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from typing import Any
from uuid import uuid4

from orchestrator import Concurrency, Idempotent, PermanentError, RateLimit, Retries, task
from orchestrator.audit.models import AuditEntry
from tests.support import far_side


@task(bind=True, retries=Retries(on=(ConnectionError,), limit=3, base=0.05, jitter=False))
def work(self: Any, key: str, seconds: float, how: str = "succeed") -> str:
    """Begin, take some time, and end as told: succeed, fail, permanent or waver (fail once, then succeed)."""
    far_side.record(f"begun:{key}", retries=self.request.retries)
    time.sleep(seconds)
    if how == "fail":
        raise LookupError(f"nothing under {key}")
    if how == "permanent":
        raise PermanentError(f"{key} is closed")
    if how == "waver" and not self.request.retries:
        raise ConnectionError(f"{key} refused once")
    far_side.record(f"done:{key}")
    return key


@task(bind=True, retries=Retries(on=(ConnectionError,), limit=3, base=0.05, jitter=False))
def square(self: Any, number: int) -> int:
    """Return a number's square; some fail, some are tried twice."""
    if fails(number):
        raise LookupError(f"no square of {number}")
    if number % 50 == 7 and not self.request.retries:
        raise ConnectionError(f"{number} was refused once")
    return number**2


def fails(number: int) -> bool:
    """Return whether ``square`` of a number fails."""
    return number % 100 == 3


@task(reject_on_worker_lost=True)
def member(key: str, number: int, seconds: float = 0.0) -> int:
    """Return a number after some time; if the process dies meanwhile it runs again."""
    far_side.record(f"{key}:{number}")
    time.sleep(seconds)
    far_side.record(f"{key}:{number}:end")
    return number


@task(bind=True, reject_on_worker_lost=True)
def complete(self: Any, values: list[int], key: str, count: int) -> int:
    """Be the body of a chord of ``member``; tell whether all values are there in order."""
    again = bool((self.request.delivery_info or {}).get("redelivered"))
    far_side.record(f"{key}:body", right=values == list(range(count)), again=again)
    return len(values)


@task(idempotency=Idempotent(key="order-{order}"))
def charge(order: str, seconds: float) -> str:
    """Charge an order at the provider, under the same key as here; take some time before and after."""
    time.sleep(seconds)
    body = json.dumps({"order": order}).encode()
    headers = {"Idempotency-Key": f"order-{order}"}
    request = urllib.request.Request(os.environ["ORCHESTRATOR_TEST_PROVIDER"], body, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        receipt: str = json.load(answer)["receipt"]
    time.sleep(seconds)
    return receipt


@task(idempotency=Idempotent(key="order-{order}", transactional=True))
def enter(order: str, seconds: float) -> str:
    """Enter an order into the ledger; its two rows, and the record, are one transaction."""
    AuditEntry.objects.create(actor="ledger", action="debit", target=order)
    time.sleep(seconds)
    AuditEntry.objects.create(actor="ledger", action="credit", target=order)
    return uuid4().hex


@task(ignore_result=True, limits=[RateLimit("turnstile", "100/s")])
def arrive(key: str) -> None:
    """Come to a far side that lets a hundred in each second."""
    _tell("/arrive", key)


@task(ignore_result=True, limits=[Concurrency("cell", 1)])
def occupy(key: str, seconds: float) -> None:
    """Be the only one inside for a while."""
    _tell("/enter", key)
    time.sleep(seconds)
    _tell("/leave", key)


def _tell(path: str, key: str) -> None:
    body = json.dumps({"key": key, "pid": os.getpid()}).encode()
    with urllib.request.urlopen(os.environ["ORCHESTRATOR_TEST_TURNSTILE"] + path, body, timeout=20):
        pass
