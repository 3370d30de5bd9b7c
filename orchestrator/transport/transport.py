"""The transports that ``redis://``, ``rediss://`` and ``sentinel://`` mean here."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as stock

from orchestrator.transport.channel import FIXED, Channel
from orchestrator.transport.poller import Poller


class Transport(stock.Transport):  # type: ignore[misc]  # kombu is untyped
    """Redis or Valkey."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        stock_poller: Any = self.cycle
        stock_poller.poller.close()
        self.cycle: Any = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let an event loop wait for our sockets."""
        self.cycle.evented = True
        super().register_with_event_loop(connection, loop)


class SentinelChannel(Channel, stock.SentinelChannel):  # type: ignore[misc]  # kombu is untyped
    """Asks sentinels where the primary is."""

    from_transport_options = tuple(name for name in stock.SentinelChannel.from_transport_options if name not in FIXED)


class SentinelTransport(Transport):
    """Redis or Valkey behind sentinels."""

    default_port = 26379
    Channel = SentinelChannel
