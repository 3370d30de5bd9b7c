"""A durable stream of byte records with several readers, each record handled at least once.

One consumer group a stream. A record lies in the stream until a reader has put it
elsewhere and settles it; what a dead reader had taken is handed to another after
``reclaim_seconds``. So :meth:`StreamSource.waiting` counts exactly what is not safe
elsewhere yet. Commands of Redis 6.2 only.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.stores.redis.client import client, location
from orchestrator.stores.redis.scripts import Script

#: The one consumer group of a stream.
GROUP = "relay"
#: Seconds after which a record that a reader took and did not settle goes to another reader.
RECLAIM_SECONDS = 10.0
#: Seconds between two looks for records of dead readers.
RECLAIM_EVERY = 1.0
#: Seconds without a sign of life after which a reader that holds nothing is forgotten.
READER_EXPIRY = 3600.0

_forget_readers = Script("forget_readers")


def unavailable(url: str, error: Exception) -> StoreUnavailable:
    """Return the error for a Redis that did not do as asked, with the way out."""
    return StoreUnavailable(
        f"Redis at {location(url)} did not answer as needed ({type(error).__name__}: {error}). "
        "Is it running, reachable and writable? The address is ORCHESTRATOR_STATE_URL, else the broker's URL."
    )


class RedisStream:
    """The writing side."""

    def __init__(self, url: str, key: str, *, field: str = "data", timeout: float = 2.0) -> None:
        """Name a stream; nothing is connected yet.

        Args:
            url: of the Redis.
            key: full key of the stream.
            field: name of the one field that holds a record.
            timeout: seconds that a write may take.
        """
        self.url = url
        self.key = key
        self.field = field
        self.timeout = timeout

    def append(self, *records: bytes) -> None:
        """Add records, all or none.

        Raises:
            StoreUnavailable: they are not stored, or it is not known whether they are.
        """
        if not records:
            return
        try:
            connection = client(self.url, self.timeout)
            if len(records) == 1:
                connection.xadd(self.key, {self.field: records[0]})
                return
            with connection.pipeline(transaction=True) as pipe:
                for record in records:
                    pipe.xadd(self.key, {self.field: record})
                pipe.execute()
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def size(self) -> int:
        """Return how many records lie here.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            return int(client(self.url, self.timeout).xlen(self.key))
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error


class StreamSource:
    """The reading side; one object a reader. Not for several threads at once."""

    def __init__(self, stream: RedisStream, *, reclaim_seconds: float = RECLAIM_SECONDS) -> None:
        self.stream = stream
        self.reclaim_seconds = reclaim_seconds
        self.reader = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._cursor = "0-0"
        self._reclaimed_at = float("-inf")

    def take(self, limit: int, wait: float) -> Sequence[tuple[str, bytes]]:
        """Return up to ``limit`` receipts and records, waiting up to ``wait`` seconds for the first.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            try:
                return self._reclaim(limit) or self._read(limit, wait)
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self._create_group()
                return self._read(limit, wait)
        except redis.RedisError as error:
            raise unavailable(self.stream.url, error) from error

    def settle(self, receipts: Sequence[str]) -> None:
        """Forget records that are safe elsewhere. Repeating it does no harm.

        Raises:
            StoreUnavailable: Redis cannot be asked; the records will come again.
        """
        if not receipts:
            return
        try:
            # One transaction: a record that is acknowledged but not deleted would be counted
            # for ever, one deleted but not acknowledged would be handed out empty.
            with self._client().pipeline(transaction=True) as pipe:
                pipe.xack(self.stream.key, GROUP, *receipts)
                pipe.xdel(self.stream.key, *receipts)
                pipe.execute()
        except redis.RedisError as error:
            raise unavailable(self.stream.url, error) from error

    def waiting(self) -> int:
        """Return how many records are not settled.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        return self.stream.size()

    def close(self) -> None:
        """Leave the group, unless records taken are not settled; those go to another reader.

        Raises:
            StoreUnavailable: Redis cannot be asked; the name is forgotten later.
        """
        self._forget_readers(self.reader, 0.0)

    def _client(self, wait: float = 0.0) -> redis.Redis:
        return client(self.stream.url, self.stream.timeout + wait)

    def _reclaim(self, limit: int) -> list[tuple[str, bytes]]:
        """Take over records whose reader seems dead, a part of them at each call."""
        now = time.monotonic()
        if now - self._reclaimed_at < RECLAIM_EVERY and self._cursor == "0-0":
            return []
        self._reclaimed_at = now
        reply = self._client().xautoclaim(
            self.stream.key,
            GROUP,
            self.reader,
            min_idle_time=int(self.reclaim_seconds * 1000),
            start_id=self._cursor,
            count=limit,
        )
        self._cursor = _text(reply[0])
        if self._cursor == "0-0":
            self._forget_readers("", READER_EXPIRY)
        return self._records(reply[1])

    def _read(self, limit: int, wait: float) -> list[tuple[str, bytes]]:
        reply: Any = self._client(wait).xreadgroup(
            GROUP,
            self.reader,
            {self.stream.key: ">"},
            count=limit,
            # BLOCK 0 would wait for ever, so less than a millisecond means not waiting.
            block=int(wait * 1000) or None,
        )
        return self._records(reply[0][1]) if reply else []

    def _records(self, entries: Iterable[tuple[Any, Mapping[Any, Any] | None]]) -> list[tuple[str, bytes]]:
        field = self.stream.field.encode()
        records = []
        for entry, fields in entries:
            # Before Redis 7 an entry that somebody deleted by hand comes back as nothing.
            if entry is None or fields is None:
                continue
            record = fields.get(field)
            if record is None:
                record = json.dumps({_text(k): _text(v) for k, v in fields.items()}).encode()
            records.append((_text(entry), bytes(record)))
        return records

    def _create_group(self) -> None:
        try:
            # From "0": what was written before the first reader came counts too.
            self._client().xgroup_create(self.stream.key, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _forget_readers(self, name: str, idle: float) -> None:
        try:
            _forget_readers(self._client(), keys=[self.stream.key], args=[GROUP, name, int(idle * 1000)])
        except redis.RedisError as error:
            raise unavailable(self.stream.url, error) from error


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
