"""Results that the database could not take wait in Redis until it can.

*Fails: closed. If Redis cannot take them either, the error passes and the task's
message is not acknowledged as a success.*
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from functools import cache
from typing import Any, Protocol

from django.db import InterfaceError, OperationalError

from orchestrator import conf
from orchestrator.stores.redis.streams import RedisStream, StreamSource

logger = logging.getLogger("orchestrator.runs")

#: What a database raises that is down, restarting or locked.
DATABASE_DOWN = (OperationalError, InterfaceError)


class Writer(Protocol):
    """Writes a spooled record; the result backend is one."""

    def write_spooled(self, record: dict[str, Any]) -> None:
        """Write one record into the database."""


@cache
def _stream() -> RedisStream:
    settings = conf.settings()
    return RedisStream(conf.state_url(), f"{settings.key_prefix}results", timeout=settings.letterbox_timeout)


def spool(record: dict[str, Any]) -> None:
    """Keep a record until the database is back.

    Raises:
        StoreUnavailable: Redis did not take it.
    """
    _stream().append(json.dumps({**record, "at": time.time()}, default=repr).encode("utf-8"))


def waiting() -> int:
    """Return how many records wait.

    Raises:
        StoreUnavailable: Redis cannot be asked.
    """
    return _stream().size()


class Drain:
    """Moves spooled records into the database, in their order. One object a relay."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._source = StreamSource(_stream())
        #: Taken, but not written: the database was away.
        self._held: deque[tuple[str, bytes]] = deque()

    def __call__(self, limit: int = 200) -> int:
        """Write up to ``limit`` records.

        Returns:
            how many were handled.
        Raises:
            OperationalError, InterfaceError: the database is away; nothing is lost, call again.
            StoreUnavailable: Redis cannot be asked.
        """
        if not self._held:
            self._held.extend(self._source.take(limit, 0))
        handled = 0
        while self._held:
            receipt, raw = self._held[0]
            if self._write(receipt, raw):
                self._source.settle([receipt])
                handled += 1
            self._held.popleft()
        return handled

    def close(self) -> None:
        """Leave the stream; what is held goes to another relay.

        Raises:
            StoreUnavailable: Redis cannot be asked; the name is forgotten later.
        """
        self._source.close()

    def _write(self, receipt: str, raw: bytes) -> bool:
        try:
            self._writer.write_spooled(json.loads(raw))
        except DATABASE_DOWN:
            raise
        except Exception:
            # It stays in the stream and is tried again: a bug of ours must not lose a result.
            logger.exception("A spooled result could not be written; it stays in the stream as %s", receipt)
            return False
        return True
