"""What this process holds of one broker: claimed, handed out, done. Outlives connections.

Celery forgets what it holds when a connection breaks; its tasks run on all the same.
So the books are kept by process, not by channel: the lease of what runs is renewed and
its acknowledgement sent whichever connection is up by then.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable, Sequence

import redis

from orchestrator.contracts.limiting import Waiting
from orchestrator.transport.ahead import Ahead
from orchestrator.transport.buffer import STUCK, Buffer, HandedOut, tag_of
from orchestrator.transport.companion import Companion, Company
from orchestrator.transport.dues import Dues
from orchestrator.transport.inflight import Claimed, InFlight, Turn, hang_up
from orchestrator.transport.keys import Keys
from orchestrator.transport.pacing import Pace
from orchestrator.transport.witness import Nobody, Witness

logger = logging.getLogger("orchestrator.transport")


class Ledger:
    """Safe for several threads. Errors of calls that talk to the broker are redis-py's."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        *,
        lease: float,
        low_share: float = 0.0,
        companion: Companion | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.client = client
        self._witness = witness or Nobody()
        self.keys = keys
        self.lease, self.low_share = lease, low_share
        self.pid = os.getpid()
        self.lock = threading.RLock()
        #: Set when something waits for the heartbeat thread.
        self.attention = threading.Event()
        self.pace = Pace()
        #: Whether a line has been joined since the heartbeat last looked at them.
        self.parked = False
        self._serial = 0
        self._buffers: list[Buffer] = []
        self._out: dict[str, HandedOut] = {}
        self.ahead: set[Ahead] = set()  # claims that were sent before there is anything to claim
        self.orphans: set[str] = set()  # tags whose channel has gone while their task runs
        self._dues = Dues(companion or Company(), self._witness)
        self._begin()

    def _begin(self) -> None:
        """Take a new name, under which nothing is held yet."""
        self.owner = f"{socket.gethostname()}:{self.pid}:{uuid.uuid4().hex[:12]}"
        self.inflight = InFlight(self.client, self.keys, self.owner, self.lease, self.low_share)
        self._witness.begins(self.owner)

    @property
    def busy(self) -> bool:
        """Whether anything is held or waits to be told to the broker."""
        return bool(self._out or self._dues or any(self._buffers))

    def next_need(self) -> float:
        """Return the time on the monotonic clock at which the heartbeat must act; infinity for never."""
        with self.lock:
            stuck = [buffer.moved_at + STUCK for buffer in self._buffers if buffer]
            return min([self._dues.next_need(), *stuck])

    def new_buffer(self) -> Buffer:
        """Return a buffer for a channel; it counts until :meth:`drop_buffer`."""
        buffer = Buffer()
        with self.lock:
            self._buffers.append(buffer)
        return buffer

    def drop_buffer(self, buffer: Buffer) -> None:
        """Return what is in a buffer, which is used no more."""
        with self.lock:
            self.return_buffer(buffer)
            self._buffers.remove(buffer)

    # --- from the broker ----------------------------------------------------------

    def claim(self, buffer: Buffer, queues: Sequence[str], want: int, *, strict: bool = False) -> bool:
        """Fill a buffer with up to ``want`` messages, send acknowledgements on the way; whether more waits."""
        with self.lock:
            self._send_returns()
            serial = self.reserve(want)
            acks, before = self._dues.batch()
            try:
                turn = self.inflight.turn(queues, serial, want, acks, strict=strict, before=before)
            except redis.RedisError as error:
                hang_up(self.client, error)
                self.doubt(range(serial + 1, serial + want + 1))
                raise
            self._dues.sent(acks, turn.acknowledged)
            return self.received(buffer, turn)

    def reserve(self, want: int) -> int:
        """Set serials aside for a claim; return the last one before them. The caller locks, here and below."""
        serial, self._serial = self._serial, self._serial + want
        return serial

    def received(self, buffer: Buffer, turn: Turn) -> bool:
        """Put what a claim brought into a buffer; whether more waits than was taken."""
        if turn.broken:
            logger.error("Key %r is no list, so nothing is taken from that queue: rename or delete it.", turn.broken)
        buffer.put(turn.claimed)
        if len(turn.claimed) > 1:
            self.attention.set()
        return turn.more

    def doubt(self, serials: Iterable[int]) -> None:
        """Return what a call without an answer may have taken, when the broker answers again."""
        self._dues.returning.update(serials)
        self.attention.set()

    def take(self, buffer: Buffer) -> Claimed | None:
        """Hand out the next message, under the tag :func:`tag_of` gives it."""
        with self.lock:
            if not buffer:
                return None
            buffer.moved_at = time.monotonic()
            claimed = buffer.messages.popleft()
            self._out[tag_of(claimed)] = HandedOut(claimed.serial)
            return claimed

    def take_over(self, owner: str, serial: int) -> Claimed | None:
        """Hand out a message that another process held and cannot end any more; None if it has lost it."""
        with self.lock:
            self._serial += 1
            claimed = self.inflight.take_over(owner, serial, self._serial)
            if claimed is not None:
                self._out[tag_of(claimed)] = HandedOut(claimed.serial)
            return claimed

    def started(self, tag: str, name: str) -> None:
        """Measure from now how long a message takes."""
        out = self._out.get(tag)
        if out is not None:
            out.name, out.since = name, time.monotonic()

    # --- to the broker ------------------------------------------------------------

    def ack(self, tag: str) -> None:
        """Note that a message is done with; the broker is told soon."""
        with self.lock:
            out = self._out.pop(tag, None)
            self.orphans.discard(tag)
            if out is None:
                logger.warning("An acknowledgement came too late: its message went to another worker meanwhile.")
                return
            if out.since is not None:
                self.pace.note(out.name, time.monotonic() - out.since)
            if self._dues.ack(out.serial):
                self.attention.set()

    def flush(self) -> None:
        """Send all that the broker has not been told."""
        with self.lock:
            self._send_returns()
            while acks := self._dues.settle():
                turn = self.inflight.turn((), self._serial, 0, acks)
                self._dues.sent(acks, turn.acknowledged)

    def flush_if_full(self) -> None:
        """Send acknowledgements if many have gathered."""
        if self._dues.full:
            self.flush()

    def flush_if_due(self) -> None:
        """Send acknowledgements that have waited long enough."""
        with self.lock:
            if self._dues.due():
                self.flush()

    def give_back(self, tags: Iterable[str]) -> None:
        """Return messages to the front of their queues: now, or as soon as the broker can be asked."""
        with self.lock:
            for tag in tags:
                out = self._out.pop(tag, None)
                self.orphans.discard(tag)
                if out is not None:
                    self._dues.returning.add(out.serial)
            self._return_soon()

    def return_buffer(self, buffer: Buffer, keep: int = 0, only: str | None = None) -> None:
        """Return claimed messages that nobody got yet.

        Args:
            keep: how many may stay.
            only: a queue; those of others stay.
        """
        with self.lock:
            staying: deque[Claimed] = deque()
            for claimed in buffer.messages:
                if len(staying) < keep or (only is not None and claimed.queue != only):
                    staying.append(claimed)
                else:
                    self._dues.returning.add(claimed.serial)
            buffer.messages = staying
            self._return_soon()

    def return_stuck(self) -> None:
        """Return claimed messages if nothing has moved for a while: somebody else may be free."""
        with self.lock:
            for buffer in self._buffers:
                if buffer.stuck():
                    self.return_buffer(buffer)
            for ahead in self.ahead:
                ahead.return_overdue()

    def adopt(self, tags: Iterable[str]) -> None:
        """Keep messages whose channel goes, because their tasks run on."""
        with self.lock:
            self.orphans.update(self._out.keys() & set(tags))

    def give_back_orphans(self, but: Collection[str]) -> None:
        """Return adopted messages that, as it turned out, nobody works on."""
        self.give_back([tag for tag in self.orphans if tag not in but])

    def set_aside(self, claimed: Claimed, reason: str) -> None:
        """Send a message that cannot be delivered on its way to the inbox."""
        with self.lock:
            self._out.pop(tag_of(claimed), None)
            try:
                self.inflight.set_aside(claimed.serial, reason)
            except redis.RedisError:
                self.doubt([claimed.serial])
                raise

    def park(self, tag: str, waiting: Waiting) -> None:
        """Let a message wait in the line of a limit; back to its queue if the broker cannot be asked."""
        with self.lock:
            out = self._out.pop(tag, None)
            self.orphans.discard(tag)
            if out is not None:
                try:
                    self.inflight.park(out.serial, waiting)
                except redis.RedisError:
                    self.doubt([out.serial])
            self.parked = True
            self.attention.set()

    def renew(self) -> None:
        """Extend the lease; find out what the broker counts as ours and we do not know of."""
        with self.lock:
            counted = self.inflight.renew()
            if counted < 0:
                self._lost()
                return
            buffered = (claimed.serial for buffer in self._buffers for claimed in buffer.messages)
            known = {out.serial for out in self._out.values()}.union(self._dues.serials(), buffered)
            if counted > len(known):
                # A call whose reply was lost took them; no later call can, for the lock is ours.
                known.update(*(ahead.serials for ahead in self.ahead))
                self._dues.returning.update(serial for serial in self.inflight.serials() if serial not in known)
            self._send_returns()

    def _lost(self) -> None:
        """The lease ran out, and what we held is somebody else's now."""
        if self._out:
            logger.error(
                "This process could not renew its lease of %g s in time; %d messages that it works on went to other "
                "workers and may run twice. Was it stopped, or the broker out of reach?",
                self.lease,
                len(self._out),
            )
        for buffer in self._buffers:
            buffer.messages.clear()
        self._out.clear()
        self.orphans.clear()
        self._dues.clear()
        self._begin()

    def _return_soon(self) -> None:
        try:
            self._send_returns()
        except redis.RedisError as error:
            logger.info("Messages are returned once the broker answers: %s", error)
            self.attention.set()

    def _send_returns(self) -> None:
        if self._dues.returning:
            self.inflight.give_back(list(self._dues.returning))
            self._dues.returning.clear()
