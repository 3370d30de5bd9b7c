"""One ledger a broker and process, found by where the broker is; a fork starts with none."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis

from orchestrator import conf
from orchestrator.transport import delayed, inflight, parking, setback
from orchestrator.transport.companion import Companion, Company
from orchestrator.transport.fairness import FairQueues
from orchestrator.transport.heartbeat import ROUND, Heartbeat
from orchestrator.transport.inflight import Aside
from orchestrator.transport.keys import Keys
from orchestrator.transport.ledger import Ledger
from orchestrator.transport.setback import Memory
from orchestrator.transport.witness import Witness

logger = logging.getLogger("orchestrator.transport")


class Office:
    """A ledger and the thread that looks after it, shared by the channels of one broker."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        settings = conf.settings()
        self.keys = keys
        self.client = client
        self.ledger = Ledger(
            client,
            keys,
            lease=settings.lease_seconds,
            low_share=settings.low_priority_share,
            companion=_company,
            witness=_witness,
        )
        self.fair = FairQueues(client, keys)
        self._max_deliveries = settings.max_deliveries
        self._lease = settings.lease_seconds
        self._memory = Memory()
        self._consumers = 0
        self._heartbeat = Heartbeat(
            self.ledger, self.duties, self.release, lambda: self._consumers > 0 or self.ledger.busy
        )

    @property
    def attended(self) -> bool:
        """Whether somebody consumes, so that what is gathered here is sent in time."""
        return self._consumers > 0

    def open(self) -> None:
        """A channel begins to consume."""
        self._consumers += 1
        self._heartbeat.start()

    def close(self) -> None:
        """A channel ends. The last one tells the broker what it does not know yet."""
        self._consumers -= 1
        if self._consumers > 0 or self.ledger.pid != os.getpid():
            return
        try:
            self.ledger.flush()
            self.ledger.inflight.leave()
        except redis.RedisError as error:
            logger.info("Left without telling the broker; it will find out when the lease runs out: %s", error)
        self.ledger.attention.set()

    def duties(self) -> float:
        """Do the common duties once; return the seconds until the next delayed message is due."""
        return duties(self.client, self.keys, self._lease, self._max_deliveries, self._memory)

    def release(self) -> float:
        """Release what limits let through; return the seconds until a line has to be looked at again."""
        return parking.release_due(self.client, self.keys)


def duties(client: redis.Redis, keys: Keys, lease: float, max_deliveries: int, memory: Memory | None = None) -> float:
    """Recover what dead owners held, move what is due, bury what cannot be delivered.

    Args:
        memory: of the caller, who is told in the log if the broker has forgotten what it knows.

    Returns:
        seconds until the next delayed message is due.
    """
    swept = inflight.recover(client, keys, lease, max_deliveries, memory)
    if swept.forgot and (found := setback.last(client, keys)):
        logger.error("The broker came back with an older state: %s", found)
    if swept.owners:
        logger.warning(
            "%d worker(s) gave no sign of life for %g s: returned %d of their messages to the queues, "
            "set %d aside that came back too often.",
            swept.owners,
            lease,
            swept.returned,
            swept.aside,
        )
    moved, left = delayed.move_due(client, keys)
    parking.release_due(client, keys)
    _bury_aside(client, keys)
    return 0.0 if moved >= delayed.BATCH else min(left, ROUND)


_company = Company()


def accompany(companion: Companion, *, first: bool = False) -> None:
    """Say what has to be safe before acknowledgements of this process are; ``first``: and before other companions."""
    _company.join(companion, first=first)


def hasten() -> None:
    """Send what must not wait while this process waits for messages."""
    _company.hasten()


def attended() -> bool:
    """Whether this process acknowledges messages, so that its companion is sent in time."""
    return any(one.attended for one in list(_offices.values()))


def hurry() -> None:
    """Tell the heartbeats that the companion has something to send."""
    for one in list(_offices.values()):
        one.ledger.attention.set()


_bury: Callable[[Aside], None] | None = None


def bury_with(bury: Callable[[Aside], None]) -> None:
    """Say who puts undeliverable messages into the inbox; without anybody they stay set aside.

    Args:
        bury: stores one, or raises and is asked again; called from the heartbeat's thread.
    """
    global _bury  # noqa: PLW0603 - one composition root a process
    _bury = bury


_witness: Witness | None = None


def watched_by(witness: Witness) -> None:
    """Let a witness note what this process holds; before it connects first."""
    global _witness  # noqa: PLW0603 - one a process
    _witness = witness


def _bury_aside(client: redis.Redis, keys: Keys) -> None:
    if _bury is None:
        return
    for one in inflight.aside(client, keys):
        _bury(one)
        inflight.forget_aside(client, keys, one)


# --- all offices of this process ----------------------------------------------------

_offices: dict[tuple[Any, ...], Office] = {}
_lock = threading.Lock()
_keeping = False


def office(place: tuple[Any, ...], client: Callable[[], redis.Redis], keys: Keys) -> Office:
    """Return the office for a broker; ``client`` makes its client if it is a new one."""
    with _lock:
        found = _offices.get(place)
        if found is None:
            found = _offices[place] = Office(client(), keys)
        return found


def in_use() -> bool:
    """Whether this process consumes through this transport."""
    return bool(_offices)


@contextmanager
def keeping() -> Iterator[None]:
    """While this lasts, channels that close keep what they handed out: its tasks run on."""
    global _keeping  # noqa: PLW0603 - asked by channels that close somewhere below
    _keeping = True
    try:
        yield
    finally:
        _keeping = False


def is_keeping() -> bool:
    """Whether :func:`keeping` lasts."""
    return _keeping


def give_back_orphans(but: set[str]) -> None:
    """Return what :func:`keeping` kept, but for the given tags, which somebody really works on."""
    for one in list(_offices.values()):
        one.ledger.give_back_orphans(but)


def _forget() -> None:
    """A fork holds nothing of what its parent claimed."""
    global _lock, _keeping  # noqa: PLW0603 - another thread of the parent may have held the old one
    _lock = threading.Lock()
    _keeping = False
    _offices.clear()


os.register_at_fork(after_in_child=_forget)
