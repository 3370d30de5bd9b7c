"""From the letters stream into the table: at least once out of the stream, once into the table.

A letter leaves the stream only after its row is committed. Its attempt id is unique,
so a letter that comes again (a relay died in between, two relays have it) changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import DatabaseError, DataError, InterfaceError, OperationalError, connections, router, transaction

from orchestrator import conf
from orchestrator.contracts.events import LetterFiled, emit
from orchestrator.contracts.ports import LetterSource
from orchestrator.deadletters.filing import file_of, unreadable
from orchestrator.deadletters.models import DeadLetter
from orchestrator.stores.redis.letters import RedisLetterSource

logger = logging.getLogger(__name__)

Record = tuple[str, bytes]

#: What says that the database is away, rather than that it refuses one row.
AWAY = (OperationalError, InterfaceError)


def source() -> RedisLetterSource:
    """Return this process's reader of the letters stream.

    Raises:
        InvalidOption: no Redis is configured.
    """
    settings = conf.settings()
    return RedisLetterSource(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)


class Drain:
    """Moves letters from a source into rows. One object a relay."""

    def __init__(self, letters: LetterSource) -> None:
        self._letters = letters
        #: Taken, but perhaps not filed: the database was away.
        self._held: Sequence[Record] = ()
        #: Filed, but perhaps still in the stream: Redis was away.
        self._filed: list[str] = []

    def __call__(self, limit: int, wait: float) -> int:
        """File up to ``limit`` letters, waiting up to ``wait`` seconds for the first.

        Returns:
            how many records were handled.
        Raises:
            StoreUnavailable: Redis cannot be asked.
            django.db.Error: the database cannot be written; nothing is lost, call again.
        """
        self._settle()
        if not self._held:
            self._held = self._letters.take(limit, wait)
        if not self._held:
            return 0
        handled = len(self._held)
        file(self._held)
        self._filed, self._held = [receipt for receipt, _ in self._held], ()
        self._settle()
        return handled

    def _settle(self) -> None:
        self._letters.settle(self._filed)
        self._filed = []


def file(records: Sequence[Record]) -> int:
    """Write records into the table.

    Returns:
        how many rows are new.
    Raises:
        django.db.Error: the database cannot be written.
    """
    rows = [file_of(receipt, raw) for receipt, raw in records]
    try:
        return _insert(rows)
    except AWAY:
        _drop_connection()
        raise
    except (DatabaseError, ValueError, TypeError) as error:
        logger.warning("A batch of %d letters was refused, filing them one by one: %s", len(rows), error)
    return sum(_file_one(row, record) for row, record in zip(rows, records, strict=True))


def _file_one(row: DeadLetter, record: Record) -> int:
    try:
        return _insert([row])
    except AWAY:
        _drop_connection()
        raise
    except (DatabaseError, ValueError, TypeError) as error:
        logger.error("Letter %s was refused and is filed as raw bytes: %s", record[0], error)
        return _insert([unreadable(*record, error)])


def _insert(rows: Sequence[DeadLetter]) -> int:
    """Insert what is not there yet, all or nothing, and tell who listens."""
    mine = {row.pk: row for row in rows}
    with transaction.atomic(using=router.db_for_write(DeadLetter)):
        DeadLetter.objects.bulk_create(rows, ignore_conflicts=True)
        keys = {row.key for row in rows}
        there = dict(DeadLetter.objects.filter(key__in=keys).values_list("key", "pk"))
        if missing := keys - there.keys():
            # "Ignore conflicts" passes over more than duplicates on some databases; a letter must not go that way.
            raise DataError(f"the database passed over {', '.join(sorted(missing))}")
    # Ids are drawn here, so of those that are there now, ours are the rows that did not exist before.
    new = [mine[pk] for pk in there.values() if pk in mine]
    for row in new:
        emit(LetterFiled(letter_id=str(row.pk), task=row.task, reason=row.reason))
    return len(new)


def _drop_connection() -> None:
    """Let the next try connect anew: a broken connection stays broken."""
    connection = connections[router.db_for_write(DeadLetter)]
    if not connection.in_atomic_block:
        connection.close()
