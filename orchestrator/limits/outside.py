"""Limits outside of tasks: a web view or a command that counts along with the workers."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.contracts.errors import UnknownOption
from orchestrator.contracts.limiting import Asking, Limited
from orchestrator.contracts.limits import Concurrency, RateLimit, declared
from orchestrator.contracts.outcome import RateLimited

#: Seconds between two looks for a slot: nobody tells a process that is no worker when one comes free.
LOOK_EVERY = 0.1


class Limiter:
    """What ``orchestrator.limiter`` is."""

    @contextmanager
    def acquire(
        self,
        limit: str | RateLimit | Concurrency,
        /,
        *,
        timeout: float = 10.0,
        priority: int = 0,
        **arguments: Any,
    ) -> Iterator[None]:
        """Hold a slot, or take a start under a rate, around a block::

            with limiter.acquire("stripe", account=account.id, timeout=2):
                stripe.Charge.create(...)

        Args:
            limit: what a task declares, or its name.
            timeout: seconds to wait for a turn.
            priority: 0 to 9, for tiers by priority.
            arguments: what the limit's templates and callables read.

        Raises:
            RateLimited: no turn came in time; ``retry_after`` tells how long it takes at least. In a task that puts
                the message back until then.
            UnknownOption: no task declares such a limit.
            InvalidOption: key, tier or weight cannot be made out of the arguments.
            StoreUnavailable: the limits cannot be asked.
        """
        charge = _named(limit).charge("limiter", arguments, priority)
        store, lease = get_app().limits, conf.settings().lease_seconds
        owner, deadline = uuid4().hex, time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            found = store.acquire(Asking(owner, priority=priority, patience=left), [charge], lease)
            if not isinstance(found, Limited):
                break
            if not charge.slot or left <= 0:
                raise RateLimited(found.seconds)
            time.sleep(min(left, LOOK_EVERY * random.uniform(0.5, 1.0)))  # noqa: S311 - spreads, guards nothing
        time.sleep(found.wait)
        if not charge.slot:
            yield
            return
        try:
            with store.keep(owner, [charge.id], found.fence, lease):
                yield
        finally:
            store.release(owner, [charge.id])


def _named(limit: str | RateLimit | Concurrency) -> RateLimit | Concurrency:
    if not isinstance(limit, str):
        return limit
    app = get_app()
    known = declared()
    if limit not in known:
        app.loader.import_default_modules()
        app.finalize(auto=True)
        known = declared()
    if limit not in known:
        raise UnknownOption.among(limit, known, "limits")
    return known[limit]


limiter = Limiter()
