"""Database connections of workers stay open between tasks, and are checked before they are used again.

Celery closes every connection before and after each task, whatever CONN_MAX_AGE says.
Here Django's own setting counts, as in a web process between two requests.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from typing import Any

from celery import states
from celery.fixups.django import DjangoFixup, DjangoWorkerFixup
from kombu.utils.imports import symbol_by_name

from orchestrator.engine import pooling

#: ``transaction_status`` of psycopg and psycopg2: nothing is under way.
_IDLE = 0


class KeepingWorkerFixup(DjangoWorkerFixup):  # type: ignore[misc]  # Celery is untyped
    """Celery's Django support in workers, with connections that outlive a task."""

    #: Whether this process has ever opened a connection. Most tasks of some projects use none, and looking through all
    #: aliases twice costs such a task a tenth of its time.
    _used = False
    #: Whether a cache has anything to close after a task; most have not, and looking through all aliases is as dear.
    _caches_close = True

    def install(self) -> KeepingWorkerFixup:
        """Begin to look after this process's connections."""
        created = import_module("django.db.backends.signals").connection_created
        created.connect(self._on_connection, dispatch_uid=f"orchestrator.connections.{id(self)}")
        nothing = self._cache.BaseCache.close
        self._caches_close = any(
            getattr(symbol_by_name(cache["BACKEND"], default=object), "close", None) is not nothing
            for cache in self._cache.caches.settings.values()
        )
        self._used = any(connection.connection is not None for connection in self._initialized())
        for settings in self._db.connections.settings.values():
            if settings["OPTIONS"].get("pool"):
                # A pool asks as it hands out what it kept, and is told so when it is made; see `on_task_prerun`.
                settings["CONN_HEALTH_CHECKS"] = True
        pooling.close()
        return super().install()  # type: ignore[no-any-return]

    def _on_connection(self, **_: Any) -> None:
        self._used = True

    def on_task_prerun(self, sender: Any, **_: Any) -> None:
        """Let what stayed open be checked when this task uses it first; one that is too old is closed."""
        if getattr(sender.request, "is_eager", False):
            return
        if self.db_reuse_max:
            # The project asked for Celery's way in so many words.
            self.close_database()
            return
        for connection in self._open():
            _ask_again(connection)

    def on_task_postrun(self, sender: Any, state: str = "", **_: Any) -> None:
        """Keep a connection after a clean success, close it after anything else."""
        if getattr(sender.request, "is_eager", False):
            return
        if self.db_reuse_max:
            self.close_database()
        else:
            for connection in self._open():
                if state == states.SUCCESS and _clean(connection):
                    connection.close_if_unusable_or_obsolete()
                else:
                    self._close(connection)
        if self._caches_close:
            self.close_cache()

    def _maybe_close_db_fd(self, c: Any) -> None:
        """Close a socket that is the parent's; a connection that was lost there has none."""
        with contextlib.suppress(self.DatabaseError):
            super()._maybe_close_db_fd(c)

    def _open(self) -> list[Any]:
        return [each for each in self._initialized() if each.connection is not None] if self._used else []

    def _initialized(self) -> list[Any]:
        return list(self._db.connections.all(initialized_only=True))

    def _close(self, connection: Any) -> None:
        """Close one connection, or give it back to its pool, which looks at it."""
        if connection.in_atomic_block:
            # A transaction that its task left open; closing inside would leave the wrapper in it for ever.
            connection.in_atomic_block = False
            connection.savepoint_ids = []
            connection.atomic_blocks = []
            connection.needs_rollback = False
            connection.run_on_commit = []
        try:
            connection.close()
        except (self.DatabaseError, *self.interface_errors):
            # It is gone already; the next use makes another.
            connection.connection = None


class KeepingFixup(DjangoFixup):  # type: ignore[misc]  # Celery is untyped
    """Celery's Django support with our part for workers."""

    _worker_fixup: KeepingWorkerFixup | None = None

    @property
    def worker_fixup(self) -> KeepingWorkerFixup:
        """The worker's part, made when it is needed: making it reads the settings."""
        if self._worker_fixup is None:
            self._worker_fixup = KeepingWorkerFixup(self.app)
        return self._worker_fixup


def fixup(app: Any) -> KeepingFixup:
    """Install Django support; Celery calls it for every new app."""
    pooling.watch()
    made: KeepingFixup = KeepingFixup(app).install()
    return made


def ask_again() -> None:
    """Let this thread's connections be checked at their next use, before something that is no task uses them.

    A main process settles what its dead processes ran, hours apart, and nothing else looks after its connections.
    """
    django = sys.modules.get("django.db")
    for connection in django.connections.all(initialized_only=True) if django is not None else ():
        if connection.connection is not None and not connection.in_atomic_block:
            _ask_again(connection)


def _ask_again(connection: Any) -> None:
    connection.close_if_unusable_or_obsolete()
    # Whatever CONN_HEALTH_CHECKS says: a server that restarted between two tasks must not cost a task.
    connection.health_check_enabled = True
    connection.health_check_done = False


def _clean(connection: Any) -> bool:
    """Whether nothing is under way: no transaction, and no statement that a time limit cut off."""
    if connection.in_atomic_block:
        return False
    driver = connection.connection
    return bool(getattr(getattr(driver, "info", None), "transaction_status", _IDLE) == _IDLE)
