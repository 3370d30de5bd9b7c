"""Where producers tell that a task waits: among the records of its result."""

from __future__ import annotations

import logging
from collections.abc import Callable

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.progress import Record
from orchestrator.stores.redis.results import ResultStore

logger = logging.getLogger("orchestrator.stores")

#: Does something when the open transaction of a database commits.
AtCommit = Callable[[Callable[[], None], str], None]


class RedisProgressLog:
    """States on their way to the database (:class:`~orchestrator.contracts.ports.ProgressLog`)."""

    def __init__(self, store: ResultStore, at_commit: AtCommit) -> None:
        self._store = store
        self._at_commit = at_commit

    def tell(self, record: Record, place: str | None) -> None:
        """Show a state, without waiting for an answer; now, or when the transaction of ``place`` commits."""
        if place is None:
            self._tell(record)
        else:
            self._at_commit(lambda: self._tell(record), place)

    def _tell(self, record: Record) -> None:
        try:
            self._store.tell([(record.task_id, record.dumps())])
        except StoreUnavailable as error:
            logger.warning("State %s of task %s is not shown: %s", record.status, record.task_id, error)
