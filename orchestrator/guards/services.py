"""Looking at locks and breakers, and deciding about them; each decision is audited."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from orchestrator import conf
from orchestrator.audit.services import record
from orchestrator.contracts.breaker import Circuit, Forced
from orchestrator.contracts.deduplication import Lock
from orchestrator.stores.redis.breakers import RedisBreakers
from orchestrator.stores.redis.deduplication import RedisDeduplicationLocks
from orchestrator.stores.redis.leases import RedisLeases

#: Locks that a search looks through, those first that end last.
SEARCHED = 5000


def locks(search: str = "", offset: int = 0, limit: int = 100) -> tuple[list[Lock], int]:
    """Return locks, those first that end last, and how many there are about.

    Args:
        search: part of a lock's name or the whole task id; looks through :data:`SEARCHED` locks.

    Raises:
        StoreUnavailable: Redis cannot be asked.
    """
    store = _locks()
    if not search:
        return store.list(offset, limit), store.count()
    found = [lock for lock in store.list(0, SEARCHED) if search in lock.name or search == lock.task_id]
    return found[offset : offset + limit], len(found)


def free_lock(name: str, *, by: Any = None, actor: str = "") -> bool:
    """Take a lock from whoever holds it: the next call under its key is published.

    The run that held it goes on; two may then be under way.

    Args:
        name: ``mode:task:key``, as :func:`locks` tells it.

    Returns:
        False if nothing was there.

    Raises:
        StoreUnavailable: Redis cannot be asked; nothing was changed.
    """
    with transaction.atomic():
        # First, so that nothing is changed that cannot be audited.
        record("deduplication.free", by=by, actor=actor, target=name)
        freed = _locks().free(name)
        if not freed:
            transaction.set_rollback(True)
    return freed


def breakers() -> list[Circuit]:
    """Return all breakers that a task ever asked.

    Raises:
        StoreUnavailable: Redis cannot be asked.
    """
    return _breakers().list()


def set_breaker(name: str, forced: Forced | None, *, by: Any = None, actor: str = "") -> bool:
    """Hold a breaker open or closed until it is reset; None resets it: closed, with nothing counted.

    Returns:
        False if no task ever asked a breaker of this name.

    Raises:
        StoreUnavailable: Redis cannot be asked; nothing was changed.
    """
    with transaction.atomic():
        record(f"breaker.force_{forced}" if forced else "breaker.reset", by=by, actor=actor, target=name)
        known = _breakers().set(name, forced)
        if not known:
            transaction.set_rollback(True)
    return known


def _leases() -> RedisLeases:
    settings = conf.settings()
    return RedisLeases(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)


def _locks() -> RedisDeduplicationLocks:
    return RedisDeduplicationLocks(_leases(), conf.settings().lease_seconds)


def _breakers() -> RedisBreakers:
    return RedisBreakers(_leases())
