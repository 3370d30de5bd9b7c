"""When a channel claims, and how it waits while there is nothing to claim."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

from redis.exceptions import NoScriptError

from orchestrator.stores.redis.direct import packed
from orchestrator.transport.ahead import Ahead
from orchestrator.transport.buffer import Buffer
from orchestrator.transport.clients import Clients


class Waking(Clients):
    """Kombu's channel, as far as it waits for messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._claiming: list[str] = []
        self._buffer: Buffer | None = None
        self._ahead: Ahead | None = None
        #: Whether a list may hold something: False from an empty claim to the next wake-up.
        self._hope = True
        super().__init__(*args, **kwargs)

    #: Hands buffered messages to their consumers while there are slots; returns how many.
    deliver: Callable[[], int]

    def _open_buffer(self) -> None:
        self._buffer, self._ahead = self.ledger.new_buffer(), Ahead(self.ledger)
        self.office.open()

    @property
    def claiming(self) -> bool:
        """Whether this channel claims, rather than pops."""
        return bool(self._claiming)

    @property
    def expecting(self) -> bool:
        """Whether a claim is on its way: its answer has to be read, be there a free slot or not."""
        return bool(self._ahead)

    def fill(self) -> bool:
        """Claim if nothing is buffered and something may wait; whether there is anything to deliver now."""
        buffer = self._buffer
        if buffer is None:
            return False
        if not buffer and self._hope:
            queues, want, strict = self._wanted()
            self._hope = self.ledger.claim(buffer, queues, want, strict=strict)
        return len(buffer) > 0

    def _wanted(self) -> tuple[Sequence[str], int, bool]:
        """Return what to claim now: of which queues, how many, and whether their order is strict."""
        strict = self.queue_order_strategy == "priority"
        queues = self._claiming if strict else self._queue_cycle.consume(len(self._claiming))
        if self._expires:
            # They do not expire while somebody claims from them.
            with self.conn_or_acquire() as client:
                for queue in queues:
                    self._maybe_update_queues_expire(client, queue)
        free = self.qos.free
        want = self.office.fair.fewer(self.ledger.pace.batch(free, self.qos.prefetch_count), free)
        return queues, want, strict

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self._claiming:
            super()._brpop_start(timeout)
            return
        connection = self.client.connection
        self._in_poll = connection
        self._brpop_sent_at = time.monotonic()
        command = packed("BLPOP", *map(self.keys.wake, self._claiming), self.brpop_timeout)
        if self._ahead is not None and self.connection.cycle.evented:
            # Only where a loop is sure to read the answer.
            queues, want, strict = self._wanted()
            command += self._ahead.begin(queues, want, strict=strict, within=self.brpop_timeout)
        connection.send_packed_command([command])

    def _brpop_read(self, **options: Any) -> bool:
        buffer, ahead = self._buffer, self._ahead
        if buffer is None or ahead is None or not (self._claiming or ahead):
            return bool(super()._brpop_read(**options))
        connection = self.client.connection
        self._hope = True
        try:
            connection.read_response()
            if ahead:
                self._hope = ahead.heard(buffer, connection.read_response())
        except NoScriptError:
            ahead.unheard()  # a server that restarted has forgotten it
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        for queue in {claimed.queue for claimed in buffer.messages}.difference(self._claiming):
            self.ledger.return_buffer(buffer, only=queue)
        if self.qos.can_consume() and self.fill() and self.deliver():
            return True
        if buffer:
            self.ledger.attention.set()  # no slot is free any more: somebody else's may be
        raise Empty

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self._ahead is not None and self._in_poll is connection:
            self._ahead.unheard()
        super()._on_connection_disconnect(connection)
