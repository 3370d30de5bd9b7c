"""What a relay does for results: write what waits in Redis, by any number of relays."""

from __future__ import annotations

import time

from orchestrator.runs import rows
from orchestrator.stores.redis.results import ResultStore

#: Records written by one statement.
BATCH = 500
#: Seconds for which one call goes on; a relay has other duties as well.
BUDGET = 1.0


def batch(store: ResultStore, limit: int = BATCH) -> int:
    """Write up to ``limit`` records that are due, and what of them changes meanwhile; return how many were taken.

    A record that the database refuses stays in Redis, and is tried again later.

    Raises:
        OperationalError, InterfaceError: the database is away; nothing is lost, call again.
        StoreUnavailable: Redis cannot be asked.
    """
    taken = 0
    while records := store.take(limit):
        taken += len(records)
        try:
            changed = store.settle(rows.write(records))
        except rows.DATABASE_DOWN:
            store.give_back(records)
            raise
        if not changed:
            break
        # Whoever reported the change found the record taken, and may not come again.
    return taken


def drain(store: ResultStore, limit: int = BATCH) -> int:
    """Write what is due, for a second or until there is little; errors as for :func:`batch`."""
    written, end = 0, time.monotonic() + BUDGET
    while True:
        done = batch(store, limit)
        written += done
        if done < limit or time.monotonic() > end:
            return written
