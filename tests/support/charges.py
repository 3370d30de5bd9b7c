"""Idempotent tasks that charge: on the far side, or in a table of the database."""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

from django.db import transaction

from orchestrator import Idempotent, Retries, fencing, task
from orchestrator.audit.models import AuditEntry
from tests.support import far_side
from tests.support.wait import eventually


def ledger(order: str) -> list[str]:
    """Return what the ledger holds for an order, in order."""
    return list(AuditEntry.objects.filter(target=order).order_by("id").values_list("action", flat=True))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(bind=True, idempotency=Idempotent(key="payment-{order}"), retries=Retries(on=(ConnectionError,), limit=3, base=0))
def pay(self: Any, order: str, amount: int = 1, *, until: str = "", fail: int = 0, die: bool = False) -> dict[str, Any]:
    """Charge on the far side; wait until the test notes ``until``, die, or fail so many times."""
    number = len(far_side.effects(f"pay-{order}")) + 1
    far_side.record(f"pay-{order}", id=self.request.id, retries=self.request.retries, fence=fencing())
    if die and number == 1:
        _die()
    if until:
        eventually(lambda: far_side.effects(until), 60, until)
    if number <= fail:
        raise ConnectionError("the provider is busy")
    return {"receipt": f"{order}-{number}", "amount": amount}


@task(bind=True)
def notify(self: Any, customer: str) -> str:
    """Declare nothing; a call may bring a key of its own."""
    far_side.record(f"notify-{customer}", id=self.request.id)
    if far_side.effects(f"broken-{customer}"):
        raise LookupError("no such customer")
    return f"told {customer} {len(far_side.effects(f'notify-{customer}'))}"


@task(idempotency=Idempotent(key="{order}", transactional=True))
def book(order: str, *, die: str = "") -> str:
    """Write two rows of the ledger; die between them, or after the commit."""
    far_side.record(f"book-{order}")
    first = len(far_side.effects(f"book-{order}")) == 1
    AuditEntry.objects.create(actor="book", action="charge", target=order)
    if first and die == "between":
        _die()
    AuditEntry.objects.create(actor="book", action="receipt", target=order)
    if first and die == "after":
        transaction.on_commit(_die)
    if die == "fail" and not far_side.effects(f"mended:{order}"):
        raise LookupError("no such account")
    return f"booked {order}"


@task(idempotency=Idempotent(key="{order}", ttl=3600))
def careless(order: str) -> str:
    """Write two rows and be sure of nothing: what ``transactional`` is there for."""
    add = partial(AuditEntry.objects.create, actor="careless", target=order)
    add(action="charge")
    add(action="receipt")
    return order
