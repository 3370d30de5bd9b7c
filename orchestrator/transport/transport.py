"""The transports that ``redis://``, ``rediss://`` and ``sentinel://`` mean here."""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as stock
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator.contracts.errors import InvalidOption
from orchestrator.transport.channel import FIXED, Channel
from orchestrator.transport.clients import PATIENCE
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

    master_name: str | None = None
    sentinel_kwargs: dict[str, Any] | None = None
    from_transport_options = tuple(name for name in stock.SentinelChannel.from_transport_options if name not in FIXED)

    def _place(self) -> tuple[Any, ...]:
        # Kombu goes round the sentinels; whoever is asked, the broker is the same.
        info = self.connection.client
        return (info.transport_cls, *info.alt, self.master_name, info.virtual_host)

    def _sentinel_managed_pool(self, asynchronous: bool = False) -> Any:
        if not self.master_name:
            raise InvalidOption(
                "The broker's URL leads to sentinels, and nothing says which primary is meant: set "
                "CELERY_BROKER_TRANSPORT_OPTIONS['master_name'] to the name that the sentinels know it by."
            )
        # A sentinel that is away is no reason to wait: there are others, or who publishes has to be told.
        once = {"retry": Retry(NoBackoff(), 0), "socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
        self.sentinel_kwargs = {**once, **(self.sentinel_kwargs or {})}
        return super()._sentinel_managed_pool(asynchronous)


class SentinelTransport(Transport):
    """Redis or Valkey behind sentinels."""

    default_port = 26379
    Channel = SentinelChannel
