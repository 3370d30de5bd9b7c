"""The channel: kombu's Redis channel, consuming by claim and publishing with a wake-up."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cached_property
from queue import Empty
from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual

from orchestrator.contracts.limiting import Waiting
from orchestrator.contracts.message import PUBLISHED_AS
from orchestrator.transport import fairness, parking, publishing, wire
from orchestrator.transport.buffer import attempt_of, tag_of
from orchestrator.transport.clients import refused_is_lost
from orchestrator.transport.inflight import Claimed
from orchestrator.transport.keys import DELIVERY_MEMBER, SEPARATOR
from orchestrator.transport.qos import TURN, QoS
from orchestrator.transport.waking import Waking

logger = logging.getLogger("orchestrator.transport")

#: Part of the format, so that every peer finds every message.
FIXED = ("sep", "priority_steps")


class Channel(Waking):
    """One kombu channel. Queues that are consumed without acknowledgement work as in kombu."""

    QoS = QoS
    sep = SEPARATOR
    priority_steps = stock.PRIORITY_STEPS
    from_transport_options = tuple(name for name in stock.Channel.from_transport_options if name not in FIXED)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._no_ack: set[str] = set()
        super().__init__(*args, **kwargs)

    # --- publishing ---------------------------------------------------------------

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Deliver a message: to its queue, or to where it waits for its time."""
        batch = kwargs.pop("_publish_batch", None)
        publishing.put(self, queue, message, batch)
        if self._expires and queue in self._expires:
            with self.conn_or_acquire() as client:
                self._maybe_update_queues_expire(client, queue)

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> Any:
        """Publish a message.

        Raises:
            Unroutable: a task's message that no queue would take.
        """
        publishing.check_route(self, message, exchange, routing_key)
        return super().basic_publish(message, exchange, routing_key, **kwargs)

    def create_publish_batch(self, max_size: int) -> Any:
        """Return what gathers messages for one call."""
        return publishing.Batch(self, max_size)

    def _inplace_augment_message(self, message: dict[str, Any], exchange: str, routing_key: str) -> None:
        plain = wire.plain_body(message) if wire.is_task(message) else None
        super()._inplace_augment_message(message, exchange, routing_key)
        if plain is not None:
            message["body"] = plain
            del message["properties"]["body_encoding"]

    def _next_delivery_tag(self) -> str:
        return wire.tag()

    def _queue_bind(self, *args: Any, **kwargs: Any) -> None:
        with refused_is_lost():
            super()._queue_bind(*args, **kwargs)

    def _purge(self, queue: str) -> int:
        return int(super()._purge(queue)) + fairness.purge(self.raw, self.keys, queue)

    # --- consuming ----------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Begin to consume a queue."""
        if no_ack:
            self._no_ack.add(queue)
        else:
            self._no_ack.discard(queue)
        result = super().basic_consume(queue, no_ack, *args, **kwargs)
        self._update_claiming()
        return result

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        result = super()._basic_cancel(consumer_tag)
        if queue is not None and self._buffer is not None and queue not in self._active_queues:
            self.ledger.return_buffer(self._buffer, only=queue)
        self._update_claiming()
        return result

    def _update_claiming(self) -> None:
        active = self.active_queues
        # In the order in which they were asked for, which the set has lost.
        queues = [queue for queue in self._active_queues if queue in active]
        # Replies to remote control and the like need no promises: a channel that has only such queues pops them.
        self._claiming = queues if any(queue not in self._no_ack for queue in queues) else []
        self._hope = True
        if self._claiming and self._buffer is None:
            self._open_buffer()

    def deliver(self, most: int = TURN) -> int:
        """Hand buffered messages to their consumers while there are slots; return how many."""
        done = 0
        while done < most and self._buffer is not None and self._claiming and self.qos.can_consume():
            claimed = self.ledger.take(self._buffer)
            if claimed is None:
                break
            self._queue_cycle.rotate(claimed.queue)
            self._deliver(claimed)
            done += 1
        return done

    def _deliver(self, claimed: Claimed) -> None:
        message = self._readable(claimed)
        if message is None:
            self.ledger.set_aside(claimed, "undecodable")
            return
        tag = tag_of(claimed)
        message["properties"]["delivery_tag"] = tag
        headers = message.get("headers")
        if isinstance(headers, dict):
            self.office.fair.notice(claimed.queue, headers)
        name = headers.get("task") if isinstance(headers, dict) else None
        if isinstance(name, str) and not message["headers"].get("eta"):
            self.ledger.started(tag, name)
            if self._buffer and self.ledger.pace.is_long(name):
                # Others must not wait behind it; as many as start at once may stay.
                self.ledger.return_buffer(self._buffer, keep=max(0, self.qos.free - 1))
        self.connection._deliver(message, claimed.queue)
        if claimed.queue in self._no_ack:
            self.ledger.ack(tag)

    @staticmethod
    def _readable(claimed: Claimed) -> dict[str, Any] | None:
        """Return a message as kombu wants it, or None if it is none."""
        try:
            message = wire.loads(claimed.message.decode())
            if message.pop(DELIVERY_MEMBER, None) is not None:
                message["properties"]["delivery_info"]["redelivered"] = True
            properties = message["properties"]
            properties["delivery_info"]["exchange"]
            properties[PUBLISHED_AS] = properties.get("delivery_tag")
            return dict(message)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Return one message of a queue, or None."""
        ledger, single = self.ledger, self.ledger.new_buffer()
        self.office.open()
        try:
            ledger.claim(single, [queue], 1)
            taken = ledger.take(single)
        finally:
            ledger.drop_buffer(single)
            self.office.close()
        return None if taken is None else self._message_of(taken, no_ack=no_ack)

    def take_over(self, owner: str, serial: int) -> Any:
        """Return a message that another process held and cannot end any more; None if it has lost it."""
        taken = self.ledger.take_over(owner, serial)
        return None if taken is None else self._message_of(taken)

    def attempt_of(self, tag: str) -> str:
        """Return what names the attempt at the delivery with this tag."""
        return attempt_of(self.ledger.owner, tag)

    def _message_of(self, taken: Claimed, *, no_ack: bool = False) -> Any:
        raw = self._readable(taken)
        if raw is None:
            self.ledger.set_aside(taken, "undecodable")
            return None
        raw["properties"]["delivery_tag"] = tag_of(taken)
        message = self.Message(raw, channel=self)
        if no_ack:
            self.ledger.ack(message.delivery_tag)
            self.ledger.flush()
        else:
            self.qos.append(message, message.delivery_tag)
        return message

    @cached_property
    def parks(self) -> bool:
        """Whether messages of this broker can wait for limits: those are counted on the same server."""
        return parking.possible(self.connection.client)

    def park(self, message: Any, waiting: Waiting) -> None:
        """Let a message wait in the line of a limit instead of acknowledging it."""
        self.qos.park(message.delivery_tag, waiting)
        message._state = "REQUEUED"

    # --- the end -------------------------------------------------------------------

    def close(self) -> None:
        """Return what is not done with, and close; never raises because the broker is away."""
        if self.closed:
            return
        self._closing = True
        errors: Iterable[type[Exception]] = (Empty, *self.connection_errors, self.ResponseError)
        if self._in_poll and not self._claiming and not self._ahead:
            self._quietly(self._brpop_read, errors)
        self._in_poll = None
        self.connection.cycle.discard(self)
        for queue in set(self._fanout_queues) & self.auto_delete_queues:
            client = self.__dict__.get("client")
            if client is not None:
                self._quietly(lambda queue=queue, client=client: self.queue_delete(queue, client=client), errors)
        self._disconnect_pools()
        self._close_clients()
        buffer, self._buffer = self._buffer, None
        if self._ahead is not None:
            # Only now: the broker hears that nobody waits before it hears what to return.
            self._ahead.unheard()
        if buffer is not None:
            self.ledger.drop_buffer(buffer)
        virtual.Channel.close(self)
        if buffer is not None:
            self.office.close()

    @staticmethod
    def _quietly(call: Any, errors: Iterable[type[Exception]]) -> None:
        try:
            call()
        except tuple(errors) as error:
            logger.debug("While closing a channel: %s", error)
