"""The clients of a channel: one for each use, kept, because making one costs more than using it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import redis
from kombu.transport import redis as stock

from orchestrator import conf
from orchestrator.transport import office
from orchestrator.transport.keys import Keys
from orchestrator.transport.ledger import Ledger
from orchestrator.transport.refusals import WRONG_KIND
from orchestrator.transport.sender import Sender

#: Seconds that connecting to the broker, and every answer to a producer, may take at most. Kombu connects twice on some
#: of its paths, and a producer is to be told within 2 s all the same.
PATIENCE = 0.9


@contextmanager
def refused_is_lost() -> Iterator[None]:
    """Treat a server that refuses, such as one that became a replica, as a lost connection.

    Connecting again may find another one, and a worker waits for it; at any other error it would end.
    """
    try:
        yield
    except redis.ResponseError as error:
        raise redis.ConnectionError(f"The broker refuses: {error}") from error


class Clients(stock.Channel):  # type: ignore[misc]  # kombu is untyped
    """Kombu's channel, as far as it connects."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._sync: dict[str, Any] = {}
        self._patient = False
        super().__init__(*args, **kwargs)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Yield a client: always the same one, since making one costs more than using it."""
        yield client or self._client_of("kombu", self._create_client)

    @property
    def raw(self) -> redis.Redis:
        """A client that puts no prefix before keys."""
        client: redis.Redis = self._client_of("raw", lambda: redis.Redis(connection_pool=self.pool))
        return client

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """Bound how long a producer waits; a worker's claims go through the office's own, more patient client.

        That one is not so patient that it would wait for an answer until the lease has run out.
        """
        params: dict[str, Any] = super()._connparams(asynchronous)
        most = max(PATIENCE, conf.settings().lease_seconds / 6) if self._patient else PATIENCE
        for name in ("socket_timeout", "socket_connect_timeout"):
            if name in params:
                params[name] = min(params[name] or most, most)
        return params

    def _patient_client(self) -> redis.Redis:
        self._patient = True
        try:
            return redis.Redis(connection_pool=self._get_pool())
        finally:
            self._patient = False

    def _size(self, queue: str) -> int:
        # Asked when a queue is declared. A key that is no list must not keep a worker from its other queues, nor from
        # this one when it is free; claims say what is wrong, and publishing is refused.
        try:
            return int(super()._size(queue))
        except redis.ResponseError as error:
            if WRONG_KIND in str(error):
                return 0
            raise

    def _client_of(self, kind: str, make: Any) -> Any:
        found = self._sync.get(kind)
        if found is None:
            found = self._sync[kind] = make()
        return found

    def _disconnect_pools(self) -> None:
        self._sync.clear()
        super()._disconnect_pools()

    @cached_property
    def keys(self) -> Keys:
        """Names of this broker's keys."""
        return Keys(self.global_keyprefix, self.global_keyprefix + conf.settings().key_prefix)

    @cached_property
    def sender(self) -> Sender:
        """Numbers what this channel publishes."""
        return Sender(self.keys)

    @cached_property
    def office(self) -> office.Office:
        """This process's office for this broker."""
        return office.office((*self._place(), self.keys), self._patient_client, self.keys)

    def _place(self) -> tuple[Any, ...]:
        """Return what tells this broker from others."""
        info = self.connection.client
        return (info.transport_cls, info.hostname, info.port, info.virtual_host, info.userid)

    @cached_property
    def ledger(self) -> Ledger:
        """What this process holds of this broker."""
        return self.office.ledger
