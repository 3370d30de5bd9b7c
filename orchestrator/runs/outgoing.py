"""What a process has to say of its tasks, on its way to Redis.

In a process that acknowledges messages, reports gather, those of its pool's processes
too, and are sent in one call before the acknowledgements that belong to them. Elsewhere
(another transport, early acknowledgement) an end is sent at once, and what is no end is
sent without waiting for an answer.

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
from collections.abc import Callable, Iterable
from functools import cache

from orchestrator import conf
from orchestrator.contracts import reports
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.progress import Record, is_end
from orchestrator.contracts.reports import Report
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
#: Seconds after which a task that runs is reported as started.
SHORT = 0.05

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
        #: They may wait for a moment.
        self.urgent = False
        self._limit = limit
        self._relieve = relieve
        self._due = self._flushed = self._hurried = 0.0
        self._empty()
        _all.add(self)
        office.accompany(self)

    @property
    def safe(self) -> bool:
        """Whether nothing has gathered."""
        return not (self._reports or self._begun)

    @property
    def gathers(self) -> bool:
        """Whether reports may wait for others at all."""
        return self._limit > 0

    def put(self, record: Record, *, gather: bool) -> None:
        """Take a report.

        Args:
            gather: whether its message is acknowledged after this, in this process or its parent.
        Raises:
            StoreUnavailable: an end that neither Redis nor the database took.
        """
        report = (record.task_id, record.dumps())
        if gather:
            desk = reports.collected()
            if desk is not None and is_end(report[1]):
                desk.append(report)
                return
            if desk is None and office.attended():
                self.take([report])
                return
        if is_end(report[1]):
            with self._lock:
                # It would be told after its end.
                self._begun.pop(record.task_id, None)
            self._send(report)
        else:
            self._tell(report)

    def begin(self, task_id: str, build: Callable[[], Record]) -> None:
        """Note that a task begins; it is reported if it has not ended after :data:`SHORT`."""
        if not self.gathers:
            return
        with self._lock:
            now = time.monotonic()
            self._begun[task_id] = (now, build)
            # Waking the heartbeat for each would cost more than short tasks do; :meth:`due` has it look again.
            hurry = now - self._hurried > SHORT
            if hurry:
                self._hurried = now
        if hurry:
            office.hurry()

    def take(self, gathered: Iterable[Report], ended: str = "") -> None:
        """Take reports on messages that this process acknowledges after this.

        Args:
            ended: task id that needs no report of its start any more.
        """
        if self._waiting > self._limit:
            self._write_some()
        with self._lock:
            self._begun.pop(ended, None)
            first = not self._reports
            for report in gathered:
                self._reports.append(report)
                if is_end(report[1]):
                    self._begun.pop(report[0], None)
            if self._trouble:
                self._write_gathered()
            elif len(self._reports) >= FULL:
                self.flush()
            if first and self._reports:
                # The first after a pause goes at once.
                self._due = self._flushed + GATHER
                if self._due <= time.monotonic():
                    office.hurry()

    # --- gathered -------------------------------------------------------------------

    def due(self) -> float:
        """Return when what has gathered is sent at the latest, on the monotonic clock."""
        with self._lock:
            due = self._due if self._reports else float("inf")
            if self._begun:
                due = min(due, next(iter(self._begun.values()))[0] + SHORT)
            elif (look := self._hurried + SHORT) > time.monotonic():
                # Until then whoever begins wakes nobody.
                due = min(due, look)
        return max(due, self._rest_until)

    def before(self) -> tuple[()]:
        """Nothing: reports are sent by themselves."""
        return ()

    def flush(self) -> bool:
        """Send what has gathered; False if Redis does not take it now."""
        with self._lock:
            self._report_begun()
            if not self._reports:
                return True
            if time.monotonic() < self._rest_until:
                return False
            try:
                self._waiting = self.store.put(self._reports)
            except StoreUnavailable as error:
                self._rest(error)
                return False
            self._trouble = False
            self._reports.clear()
            self._flushed = time.monotonic()
            return True

    def _report_begun(self) -> None:
        """Report tasks that have been running for a while; most are over before anybody could look."""
        limit = time.monotonic() - SHORT
        for task_id, (since, build) in list(self._begun.items()):
            if since > limit:
                return
            del self._begun[task_id]
            try:
                self._reports.append((task_id, build().dumps()))
            except Exception:
                logger.exception("The start of task %s is not shown", task_id)

    def _write_gathered(self) -> None:
        """Write into the database what Redis does not take; else it waits, and with it the acknowledgements."""
        try:
            rows.write(Record.loads(*report) for report in self._reports)
        except rows.DATABASE_DOWN as error:
            logger.warning("%d results wait in this process: %s", len(self._reports), type(error).__name__)
        else:
            self._reports.clear()

    # --- at once --------------------------------------------------------------------

    def _send(self, report: Report) -> None:
        if time.monotonic() >= self._rest_until:
            try:
                self._waiting = self.store.put([report])
            except StoreUnavailable as error:
                self._rest(error)
            else:
                self._trouble = False
                if self._waiting > self._limit:
                    self._write_some()
                return
        try:
            if rows.write([Record.loads(*report)]):
                return
            reason = "the database refused it"
        except rows.DATABASE_DOWN as error:
            reason = f"the database did not take it either ({type(error).__name__})"
        raise StoreUnavailable(
            f"The result of task {report[0]} is not stored: Redis could not be asked, and {reason}. "
            "The address of that Redis is ORCHESTRATOR_STATE_URL, else the broker's URL."
        )

    def _tell(self, report: Report) -> None:
        if time.monotonic() < self._rest_until:
            return
        try:
            self.store.tell([report])
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
        self._reports: list[Report] = []
        #: Tasks that have begun, in that order, and what builds their reports.
        self._begun: dict[str, tuple[float, Callable[[], Record]]] = {}
        self._due = self._flushed = self._hurried = 0.0
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
