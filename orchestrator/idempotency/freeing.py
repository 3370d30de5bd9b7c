"""Freeing a key by hand, so that its effect may take place again."""

from __future__ import annotations

from typing import Any

from django.db import router, transaction

from orchestrator import conf
from orchestrator.audit.services import record
from orchestrator.idempotency.models import IdempotencyRecord
from orchestrator.stores.redis.idempotency import RedisIdempotencyRecords
from orchestrator.stores.redis.leases import RedisLeases


def free(task: str, key: str, *, by: Any = None, actor: str = "") -> bool:
    """Forget an effect: its row, its record in Redis, and the lease of whoever is at it.

    The next call under this key runs. If one runs now, both may take effect.

    Returns:
        False if nothing was there.

    Raises:
        StoreUnavailable: Redis cannot be asked; nothing was changed.
    """
    settings = conf.settings()
    leases = RedisLeases(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)
    with transaction.atomic(using=router.db_for_write(IdempotencyRecord)):
        rows = IdempotencyRecord.objects.filter(task=task, key=key).delete()[0]
        found = RedisIdempotencyRecords(leases).free(f"{task}:{key}")
        if rows or found:
            record("idempotency.free", by=by, actor=actor, target=f"{task}:{key}", was_recorded=bool(rows))
    return bool(rows) or found
