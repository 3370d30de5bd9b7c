"""Results that the database could not take wait in Redis until it can.

*Fails: closed. If Redis cannot take them either, the error passes and the task's
message is not acknowledged as a success.*
"""

from __future__ import annotations

import json
import logging
import time
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


def source() -> StreamSource:
    """Return a reader of the spool; one a relay."""
    return StreamSource(_stream())


def drain_results(reader: StreamSource, writer: Writer, limit: int = 200) -> int:
    """Move spooled records into the database, in their order.

    Returns:
        how many were moved.
    Raises:
        OperationalError, InterfaceError: the database is still down; nothing is lost.
        StoreUnavailable: Redis cannot be asked.
    """
    moved = 0
    for receipt, raw in reader.take(limit, 0):
        try:
            writer.write_spooled(json.loads(raw))
        except DATABASE_DOWN:
            raise
        except Exception:
            # It stays in the stream and is tried again: a bug of ours must not lose a result.
            logger.exception("A spooled result could not be written; it stays in the stream as %s", receipt)
            continue
        reader.settle([receipt])
        moved += 1
    return moved
