"""Rows of the outbox whose messages are settled, on their way to the relays that forget them: one set of names."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import redis

from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.scripts import Script
from orchestrator.stores.redis.streams import unavailable
from orchestrator.stores.redis.wire import Wire

logger = logging.getLogger("orchestrator.stores")

#: Key after the prefix; part of the format.
ENDED = "outbox:ended"
#: Seconds for which Redis is left alone after it did not answer.
REST = 1.0

_note = Script("ended_note")


class RedisEndedRows:
    """The notes in one Redis (:class:`~orchestrator.contracts.ports.EndedRows`)."""

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        """Name the set; nothing is connected yet."""
        self._url = url
        self._timeout = timeout
        self.key = f"{key_prefix}{ENDED}"
        self._wire = Wire(url, timeout)
        self._rest_until = 0.0

    def note(self, row: str) -> None:
        """Note a row, without waiting for an answer. *Fails: open, the row is kept longer.*"""
        if time.monotonic() < self._rest_until:
            return
        try:
            self._wire.tell(_note, keys=[self.key], args=[row])
        except redis.RedisError as error:
            self._rest_until = time.monotonic() + REST
            logger.info("Rows of the outbox are kept longer than need be: %s", error)

    def take(self, limit: int) -> list[str]:
        """Return up to ``limit`` names; they come again until they are settled.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            found: Any = client(self._url, self._timeout).srandmember(self.key, limit)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error
        return [name.decode() for name in found]

    def settle(self, rows: Sequence[str]) -> None:
        """Forget names whose rows are gone.

        Raises:
            StoreUnavailable: Redis cannot be asked; they come again.
        """
        try:
            client(self._url, self._timeout).srem(self.key, *rows)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error
