"""From the attempts stream into the table: at least once out of the stream, once into the table."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from django.db import DatabaseError, router

from orchestrator import conf
from orchestrator.contracts.documents import legible
from orchestrator.runs.models import Attempt
from orchestrator.runs.rows import DATABASE_DOWN
from orchestrator.stores.redis.attempts import attempts_stream
from orchestrator.stores.redis.streams import StreamSource

logger = logging.getLogger("orchestrator.runs")

_TIMES = ("published_at", "started_at", "ended_at")
_LENGTHS = {field.name: field.max_length for field in Attempt._meta.concrete_fields if field.max_length}


class AttemptDrain:
    """Moves notes into rows. One object a relay."""

    def __init__(self) -> None:
        settings = conf.settings()
        self._source = StreamSource(attempts_stream(conf.state_url(), settings.key_prefix, settings.letterbox_timeout))
        #: Taken, and not written: the database was away.
        self._held: list[tuple[str, bytes]] = []

    def __call__(self, limit: int = 200) -> int:
        """Write up to ``limit`` notes; return how many were handled.

        Raises:
            OperationalError, InterfaceError: the database is away; nothing is lost, call again.
            StoreUnavailable: Redis cannot be asked.
        """
        if not self._held:
            self._held = list(self._source.take(limit, 0.0))
        if not self._held:
            return 0
        _write([row for row in (_row(raw) for _, raw in self._held) if row is not None])
        handled, self._held = self._held, []
        self._source.settle([receipt for receipt, _ in handled])
        return len(handled)

    def close(self) -> None:
        """Leave the stream; what is held goes to another relay.

        Raises:
            StoreUnavailable: Redis cannot be asked; the name is forgotten later.
        """
        self._source.close()


def _write(rows: list[Attempt]) -> None:
    manager = Attempt.objects.using(router.db_for_write(Attempt))
    try:
        manager.bulk_create(rows, ignore_conflicts=True)
    except DATABASE_DOWN:
        raise
    except DatabaseError as error:
        if len(rows) > 1:
            for row in rows:
                _write([row])
        else:
            logger.error("An attempt at task %s is not in the history: %s", rows[0].task_id, error)


def _row(raw: bytes) -> Attempt | None:
    try:
        note: dict[str, Any] = json.loads(raw)
        version = note.pop("v")
        if version != 1:
            raise ValueError(f"version {version!r}")
        for name in _TIMES:
            note[name] = None if note[name] is None else datetime.fromtimestamp(note[name], UTC)
        for name, value in note.items():
            if isinstance(value, str):
                note[name] = legible(value.replace("\0", "\\x00"))[: _LENGTHS.get(name)]
        return Attempt(**note)
    except (ValueError, KeyError, TypeError) as error:
        logger.error("A note of an attempt cannot be read and is dropped: %s", error)
        return None
