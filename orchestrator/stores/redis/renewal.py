"""Renewing leases while their owners are busy: one thread a process, started when first needed.

A thread shares the interpreter with the work. Code that holds the interpreter lock for
longer than a lease (some C extensions do), and a process that is stopped, miss renewals
and lose the lease; fencing numbers make that harmless.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.ports import Lease

logger = logging.getLogger("orchestrator.leases")

#: Renewals within one lease: two may fail before it ends.
PER_LEASE = 3

_all: weakref.WeakSet[Renewal] = weakref.WeakSet()


class Renewal:
    """The leases that this process holds, renewed ``PER_LEASE`` times each."""

    def __init__(self, renew: Callable[[Lease, float], bool]) -> None:
        self._renew = renew
        self.forget()
        _all.add(self)

    def forget(self) -> None:
        """Start from nothing: in a forked child the thread is gone, and the parent's leases are not its own."""
        self._held: dict[Lease, float] = {}
        self._every = float("inf")
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(self, lease: Lease, seconds: float) -> None:
        """Renew ``lease`` from now on, each time for ``seconds``."""
        with self._wake:
            self._held[lease] = seconds
            # Waking the thread costs a switch, so it is left asleep where its rhythm serves this lease too.
            if seconds / PER_LEASE < self._every:
                self._every = seconds / PER_LEASE
                self._wake.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="orchestrator-leases", daemon=True)
                self._thread.start()

    def end(self, lease: Lease) -> None:
        """Renew ``lease`` no more."""
        with self._wake:
            self._held.pop(lease, None)

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait(self._every)
                due = list(self._held.items())
            for lease, seconds in due:
                self._once(lease, seconds)

    def _once(self, lease: Lease, seconds: float) -> None:
        try:
            renewed = self._renew(lease, seconds)
        except StoreUnavailable as error:
            logger.warning("Lease %s is not renewed now: %s", lease.key, error)
            return
        with self._wake:
            if renewed or lease not in self._held:
                return
            del self._held[lease]
        logger.error("Lease %s (fencing number %d) was lost while its owner worked.", lease.key, lease.fence)


def _forget() -> None:
    for renewal in list(_all):
        renewal.forget()


os.register_at_fork(after_in_child=_forget)
