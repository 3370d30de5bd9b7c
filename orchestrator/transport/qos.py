"""How many messages a channel may have out, and what became of them."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as stock
from kombu.transport import virtual

from orchestrator.contracts.limiting import Waiting
from orchestrator.transport import office

#: Messages handed to the worker in one turn of its loop.
TURN = 16


class QoS(virtual.QoS):  # type: ignore[misc]  # kombu is untyped
    """What this channel handed out. The books themselves are the ledger's."""

    restore_at_shutdown = True
    _stock: Any = None

    def can_consume(self) -> bool:
        """Whether a slot is free; tasks that outlived their channel count as well."""
        limit = self.prefetch_count
        return not limit or self.taken < limit

    @property
    def taken(self) -> int:
        """Messages handed out and not done with."""
        return len(self._delivered) - len(self._dirty) + len(self.channel.ledger.orphans)

    @property
    def free(self) -> int:
        """Messages that may be handed out now."""
        return max(0, self.prefetch_count - self.taken) if self.prefetch_count else TURN

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge."""
        self.channel.ledger.ack(delivery_tag)
        super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or return it to the front of its queue."""
        if requeue:
            self.channel.ledger.give_back([delivery_tag])
        else:
            self.channel.ledger.ack(delivery_tag)
        self._quick_ack(delivery_tag)

    def park(self, delivery_tag: str, waiting: Waiting) -> None:
        """Let a message wait in the line of a limit."""
        self.channel.ledger.park(delivery_tag, waiting)
        self._quick_ack(delivery_tag)

    def restore_unacked(self) -> list[Any]:
        """Return what is not done with, or keep it while its tasks outlive the channel."""
        self._flush()
        tags = list(self._delivered)
        if office.is_keeping():
            self.channel.ledger.adopt(tags)
        else:
            self.channel.ledger.give_back(tags)
        self._delivered.clear()
        return []

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Return what workers on kombu's own transport abandoned; leases tell what ours did."""
        if self._stock is None:
            self._stock = stock.QoS(self.channel)
        self._stock.restore_visible(*args, **kwargs)
