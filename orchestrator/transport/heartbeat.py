"""The thread that keeps a consuming process's promises to the broker while its loop is elsewhere.

Renews the lease, sends what must not wait, returns what is stuck, and does its share of
the common duties: recover what dead owners held, move delayed messages that are due.
In prefork it lives in the main process, which runs no task code.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import redis

from orchestrator.transport.inflight import hang_up
from orchestrator.transport.ledger import Ledger

logger = logging.getLogger("orchestrator.transport")

#: Seconds between two rounds of the common duties.
ROUND = 1.0
#: Seconds to wait after the broker could not be asked.
PAUSE = 0.2


class Heartbeat:
    """One thread for one ledger; started again after it was stopped."""

    def __init__(
        self,
        ledger: Ledger,
        duties: Callable[[], float],
        release: Callable[[], float],
        wanted: Callable[[], bool],
    ) -> None:
        """Name what to keep.

        Args:
            duties: does the common duties; returns the seconds until it should be called again, at most.
            release: releases what waits for limits; returns the seconds until it should be called again.
            wanted: False once nobody consumes and nothing is held.
        """
        self._ledger = ledger
        self._duties = duties
        self._release = release
        self._wanted = wanted
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, or go on if it runs already."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="orchestrator-heartbeat", daemon=True)
                self._thread.start()

    def _ends(self) -> bool:
        with self._lock:
            if self._wanted():
                return False
            self._thread = None
            return True

    def _run(self) -> None:
        ledger = self._ledger
        renew_at = duties_at = release_at = time.monotonic()
        while not self._ends():
            now = time.monotonic()
            try:
                ledger.attention.clear()
                ledger.flush_if_due()
                ledger.return_stuck()
                if now >= renew_at:
                    # Idle owners need no lease; the next claim begins a new one.
                    if ledger.busy:
                        ledger.renew()
                    renew_at = now + ledger.lease / 4
                if now >= duties_at:
                    duties_at = now + max(0.0, min(self._duties(), ROUND, ledger.lease / 6))
                if now >= release_at or ledger.parked:
                    ledger.parked = False
                    release_at = time.monotonic() + min(self._release(), ROUND)
            except redis.RedisError as error:
                logger.debug("The broker cannot be asked: %s", error)
                hang_up(ledger.client, error)
                time.sleep(PAUSE)
                continue
            except Exception:
                # Whatever it is, leases must be renewed.
                logger.exception("Heartbeat of the transport")
                time.sleep(PAUSE)
                continue
            wait = min(renew_at, duties_at, release_at, ledger.next_need()) - time.monotonic()
            if wait > 0:
                ledger.attention.wait(wait)
