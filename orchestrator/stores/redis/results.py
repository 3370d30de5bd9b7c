"""States of tasks on their way to the database: one record a task, the latest, until a relay has written it.

Two keys: a hash of records and an index of when a relay may take each. A record that
changes while a relay writes it is not forgotten but written again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import redis

from orchestrator.contracts.progress import Record
from orchestrator.contracts.reports import Report
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.scripts import Script
from orchestrator.stores.redis.streams import unavailable
from orchestrator.stores.redis.wire import Wire

logger = logging.getLogger("orchestrator.stores")

#: Milliseconds for which a new record waits for others, and for the end that often follows a start at once.
GATHER_MS = 100
#: Seconds after which records that a relay took and did not settle go to another.
LEASE = 10.0
#: Task ids asked for by one command.
CHUNK = 5000

_put = Script("results_put")
_take = Script("results_take")
_settle = Script("results_settle")
T = TypeVar("T")


class ResultStore:
    """The records in one Redis. *Fails: closed, every call raises StoreUnavailable.*"""

    def __init__(self, url: str, key_prefix: str, timeout: float, *, gather_ms: int = GATHER_MS) -> None:
        """Name the keys; nothing is connected yet.

        Args:
            timeout: seconds that a call may take.
            gather_ms: milliseconds before a relay may take a new record.
        """
        self.url = url
        self.timeout = timeout
        self.gather_ms = gather_ms
        self.records = f"{key_prefix}results:records"
        self.index = f"{key_prefix}results:index"
        self._wire = Wire(url, timeout)

    def put(self, reports: Iterable[Report]) -> int:
        """Store reports, each if it is news; return how many records wait.

        Raises:
            StoreUnavailable: it is not known which are stored; repeating it does no harm.
        """
        keys, args = [self.records, self.index], self._arguments(reports)
        try:
            return int(self._wire.ask(_put, keys=keys, args=args))
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def tell(self, reports: Iterable[Report]) -> None:
        """Store reports like :meth:`put`, without waiting for an answer: they may be lost with a connection.

        Raises:
            StoreUnavailable: Redis cannot be reached.
        """
        try:
            self._wire.tell(_put, keys=[self.records, self.index], args=self._arguments(reports))
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error

    def _arguments(self, reports: Iterable[Report]) -> list[Any]:
        return [self.gather_ms, *chain.from_iterable(reports)]

    def take(self, limit: int) -> list[Record]:
        """Return up to ``limit`` records that are due; they come again unless settled within :data:`LEASE`.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        keys = [self.records, self.index]
        reply = self._ask(lambda connection: _take(connection, keys=keys, args=[limit, int(LEASE * 1000)]))
        pairs = [(reply[at].decode(), reply[at + 1]) for at in range(0, len(reply), 2)]
        return [record for record in (_readable(*pair) for pair in pairs) if record is not None]

    def settle(self, records: Iterable[Record]) -> int:
        """Forget records that are written, unless they have changed; return how many have. Repeating it does no harm.

        Raises:
            StoreUnavailable: Redis cannot be asked; the records will come again.
        """
        arguments = [text for record in records for text in (record.task_id, record.token)]
        if not arguments:
            return 0
        keys = [self.records, self.index]
        return int(self._ask(lambda connection: _settle(connection, keys=keys, args=arguments)))

    def give_back(self, records: Iterable[Record]) -> None:
        """Let records that were taken, and not written, be taken again at once.

        Raises:
            StoreUnavailable: Redis cannot be asked; they come again when the lease is over.
        """
        # No record has this token: each seems to have changed.
        arguments = [text for record in records for text in (record.task_id, "-")]
        keys = [self.records, self.index]
        self._ask(lambda connection: _settle(connection, keys=keys, args=arguments))

    def read(self, task_ids: Sequence[str]) -> Mapping[str, Record]:
        """Return what waits for some tasks, by id.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        found = {}
        for start in range(0, len(task_ids), CHUNK):
            some = list(task_ids[start : start + CHUNK])
            reply = self._ask(lambda connection, some=some: connection.hmget(self.records, some))  # type: ignore[misc]
            for one, raw in zip(some, reply, strict=True):
                record = _readable(one, raw) if raw else None
                if record is not None:
                    found[one] = record
        return found

    def forget(self, task_id: str) -> None:
        """Drop what waits for a task.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        self._ask(lambda connection: (connection.hdel(self.records, task_id), connection.zrem(self.index, task_id)))

    def size(self) -> int:
        """Return how many records wait.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        return int(self._ask(lambda connection: connection.zcard(self.index)))

    def oldest(self) -> float | None:
        """Return when the record that is next to be taken was reported, in seconds since the epoch; None without any.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        first: Any = self._ask(lambda connection: connection.zrange(self.index, 0, 0))
        found = self.read([first[0].decode()]) if first else {}
        return next((record.at for record in found.values()), None)

    def _ask(self, call: Callable[[redis.Redis], T]) -> T:
        try:
            return call(client(self.url, self.timeout))
        except redis.RedisError as error:
            raise unavailable(self.url, error) from error


def _readable(task_id: str, raw: bytes) -> Record | None:
    try:
        return Record.loads(task_id, raw)
    except ValueError as error:
        # It stays: a later release that wrote it may read it.
        logger.error("What waits for task %s cannot be read and stays in Redis: %s", task_id, error)
        return None
