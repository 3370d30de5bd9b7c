"""Whether a task may run again after it died anywhere: killed around each database write, then repeated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any
from uuid import uuid4

from django.db import connections

from orchestrator.contracts.outcome import Verdict
from orchestrator.testing import rows
from orchestrator.testing.clock import advance
from orchestrator.testing.mortal import Attempted, attempt
from orchestrator.testing.performing import Delivery, delivery

#: Ends with which a run has done its work.
DONE = (Verdict.SUCCEEDED, Verdict.REPLAYED)
#: Seconds, a hundred years: longer than any lease or record lasts.
FOR_EVER = 100 * 365 * 24 * 3600.0


def check_idempotent(task: Any, /, *args: Any, ignore: Collection[str] = (), **kwargs: Any) -> int:
    """Run a task twice; then kill it with SIGKILL around each database write, and run it again each time.

    Every attempt is a process of its own on the test's database, which must therefore be
    committed (``transactional_db``, ``TransactionTestCase``) and not live in memory. After
    each case the rows are put back. Effects elsewhere (calls, mail) are not seen.

    Args:
        ignore: fields that may differ, as ``"shop.Order.note"``; automatic keys, times of
            writing and generated defaults may do so anyway.

    Returns:
        how many deaths it survived.

    Raises:
        AssertionError: names the death, and the rows that differ.
    """
    _committed_only()
    before = rows.dump()
    first = delivery(task, args, kwargs)

    def now() -> dict[str, list[str]]:
        return rows.comparable(rows.dump(), before, ignore)

    try:
        clean = attempt(first)
        _done(clean, "It was run once")
        once = now()
        _done(attempt(replace(first, task_id=str(uuid4()), attempt_id=uuid4().hex)), "It was run twice")
        _same(once, now(), "It was run twice")
        for number, point in enumerate(clean.points):
            _put_back(before)
            _die_and_run_again(first, number, point)
            _same(once, now(), f"It was killed {point} and run again")
    finally:
        _put_back(before)
    return len(clean.points)


def _put_back(before: rows.Rows) -> None:
    rows.restore(before)
    # The keys of the case before are forgotten too.
    advance(FOR_EVER)


def _die_and_run_again(first: Delivery, number: int, point: str) -> None:
    killed = replace(first, attempt_id=uuid4().hex)
    died = attempt(killed, kill_at=number)
    if died.verdict is not Verdict.LOST:
        raise AssertionError(f"It was to be killed {point}, and ended before: {died.verdict} {died.error}")
    killed.settle_lost()
    _done(attempt(replace(first, attempt_id=uuid4().hex)), f"It was killed {point} and run again")


def _done(attempted: Attempted, case: str) -> None:
    if attempted.verdict not in DONE:
        raise AssertionError(f"{case}, and ended as {attempted.verdict}. {attempted.error}")


def _same(once: dict[str, list[str]], now: dict[str, list[str]], case: str) -> None:
    lines = []
    for label, wanted in once.items():
        missing, besides = list(wanted), []
        for row in now[label]:
            if row in missing:
                missing.remove(row)
            else:
                besides.append(row)
        lines += [f"  {label} lacks {row}" for row in missing] + [f"  {label} has besides {row}" for row in besides]
    if lines:
        raise AssertionError("\n".join([f"{case}; that is not the same as one run:", *lines]))


def _committed_only() -> None:
    for alias in connections:
        connection = connections[alias]
        if connection.in_atomic_block:
            raise AssertionError(
                f"The test runs in a transaction on {alias!r}, which other processes do not see: "
                "use the fixture transactional_db, or TransactionTestCase."
            )
        in_memory = getattr(connection, "is_in_memory_db", None)
        if in_memory is not None and in_memory():
            raise AssertionError(
                f"Database {alias!r} lives in the memory of this process: name a file for it, "
                f"DATABASES[{alias!r}]['TEST'] = {{'NAME': ...}}."
            )
