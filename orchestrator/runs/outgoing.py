"""What a process has to say of its tasks, on its way to Redis.

In a process that acknowledges messages itself, reports gather and are sent in one call
before the acknowledgements that belong to them. Elsewhere (a pool child, another
transport, early acknowledgement) an end is sent at once, and what is no end is sent
without waiting for an answer.

*Fails: a state that nobody will miss (STARTED, PROGRESS) open. An end closed: what Redis
does not take is written into the database; if that is away too, its message is not
acknowledged.*
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import cache

from orchestrator import conf
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.progress import Record, is_news
from orchestrator.runs import drain, rows
from orchestrator.stores.redis.chords import ChordSets
from orchestrator.stores.redis.results import ResultStore
from orchestrator.transport import office

logger = logging.getLogger("orchestrator.runs")

#: Seconds for which reports gather if no acknowledgement takes them along earlier.
GATHER = 0.02
#: Reports that are sent at once when so many have gathered.
FULL = 500
#: Seconds for which Redis is left alone after it did not answer.
REST = 0.5

_all: weakref.WeakSet[Outgoing] = weakref.WeakSet()


class Outgoing:
    """Safe for several threads and across forks. The companion of the transport's ledger."""

    def __init__(self, store: ResultStore, limit: int, relieve: Callable[[], object]) -> None:
        """Begin with nothing.

        Args:
            limit: records that may wait in Redis before this process writes some itself.
            relieve: writes some.
        """
        self.store = store
        self._limit = limit
        self._relieve = relieve
        self._empty()
        _all.add(self)
        office.accompany(self)

    def put(self, record: Record, *, gather: bool) -> None:
        """Take a report.

        Args:
            gather: whether its message is acknowledged by this process, and not before.
        Raises:
            StoreUnavailable: an end that neither Redis nor the database took.
        """
        if gather and self._limit and office.hurry():
            if self._waiting > self._limit:
                self._write_some()
            self._gather(record)
        elif record.standing[0].final:
            self._send(record)
        else:
            self._tell(record)

    # --- gathered -------------------------------------------------------------------

    def due(self) -> float:
        """Return when what has gathered is sent at the latest, on the monotonic clock."""
        return max(self._since + GATHER, self._rest_until) if self._records else float("inf")

    def flush(self) -> bool:
        """Send what has gathered; False if Redis does not take it now."""
        with self._lock:
            if not self._records:
                return True
            if time.monotonic() < self._rest_until:
                return False
            some = list(self._records.values())
            try:
                self._waiting = self.store.put(some)
            except StoreUnavailable as error:
                self._rest(error)
                return False
            self._trouble = False
            self._records.clear()
            return True

    def _gather(self, record: Record) -> None:
        with self._lock:
            if not self._records:
                self._since = time.monotonic()
            known = self._records.get(record.task_id)
            if known is None or is_news(known.standing, record.standing):
                if known is not None and record.started is None:
                    record.started = known.started
                self._records[record.task_id] = record
            if self._trouble and record.standing[0].final:
                self._write_gathered()
            elif len(self._records) >= FULL:
                self.flush()

    def _write_gathered(self) -> None:
        """Write into the database what Redis does not take; else it waits, and with it the acknowledgements."""
        try:
            for record in rows.write(self._records.values()):
                self._records.pop(record.task_id, None)
        except rows.DATABASE_DOWN as error:
            logger.warning("%d results wait in this process: %s", len(self._records), type(error).__name__)

    # --- at once --------------------------------------------------------------------

    def _send(self, record: Record) -> None:
        if time.monotonic() >= self._rest_until:
            try:
                self._waiting = self.store.put([record])
            except StoreUnavailable as error:
                self._rest(error)
            else:
                self._trouble = False
                if self._waiting > self._limit:
                    self._write_some()
                return
        try:
            if rows.write([record]):
                return
            reason = "the database refused it"
        except rows.DATABASE_DOWN as error:
            reason = f"the database did not take it either ({type(error).__name__})"
        raise StoreUnavailable(
            f"The result of task {record.task_id} is not stored: Redis could not be asked, and {reason}. "
            "The address of that Redis is ORCHESTRATOR_STATE_URL, else the broker's URL."
        )

    def _tell(self, record: Record) -> None:
        if time.monotonic() < self._rest_until:
            return
        try:
            self.store.tell([record])
        except StoreUnavailable as error:
            self._rest(error)

    # --- details --------------------------------------------------------------------

    def _rest(self, error: StoreUnavailable) -> None:
        self._rest_until = time.monotonic() + REST
        if not self._trouble:
            logger.warning("Results go to the database, or wait, until Redis answers: %s", error)
        self._trouble = True

    def _write_some(self) -> None:
        """Nobody else writes fast enough: bound what waits, at this task's cost."""
        try:
            self._relieve()
        except (StoreUnavailable, *rows.DATABASE_DOWN) as error:
            # What waits goes on growing; losing it would be worse.
            logger.warning("%d results wait in Redis: %s", self._waiting, type(error).__name__)
        self._waiting = 0

    def _empty(self) -> None:
        self._lock = threading.RLock()
        self._records: dict[str, Record] = {}
        self._since = 0.0
        self._rest_until = 0.0
        self._trouble = False
        #: Records in Redis, as of the last answer.
        self._waiting = 0


def store() -> ResultStore:
    """Return where this process's records wait."""
    return outgoing().store


def chord_sets() -> ChordSets:
    """Return which members of chords are out."""
    settings = conf.settings()
    return ChordSets(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)


def outgoing() -> Outgoing:
    """Return what this process says of its tasks, on its way to Redis."""
    settings = conf.settings()
    return _outgoing(conf.state_url(), settings.key_prefix, settings.letterbox_timeout, settings.results_waiting)


@cache
def _outgoing(url: str, key_prefix: str, timeout: float, limit: int) -> Outgoing:
    # Without room to wait, records are written at once.
    made = ResultStore(url, key_prefix, timeout, **({} if limit else {"gather_ms": 0}))
    return Outgoing(made, limit, lambda: drain.batch(made))


def _forget() -> None:
    """A fork says nothing for its parent."""
    for outgoing in _all:
        outgoing._empty()


os.register_at_fork(after_in_child=_forget)
