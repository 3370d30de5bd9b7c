"""A clock that a test sets: what expires in the stores grows old at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from orchestrator import conf
from orchestrator.idempotency.models import IdempotencyRecord
from orchestrator.stores.redis import breakers, deduplication, leases
from orchestrator.stores.redis.client import client

#: Characters that mean something in a Redis key pattern.
SIGNS = "*?[]\\^-"


def advance(seconds: float) -> None:
    """Let leases, locks, breakers and records be ``seconds`` older.

    Redis and the database measure spans by their own clocks, which a test cannot set; so
    the spans that are left become shorter. A task's own ``now()`` does not change.
    """
    settings = conf.settings()
    redis = client(conf.state_url(), settings.letterbox_timeout)
    prefix = "".join(f"\\{sign}" if sign in SIGNS else sign for sign in settings.key_prefix)
    for key in list(redis.scan_iter(match=f"{prefix}*", count=1000)):
        left = redis.pttl(key)
        if left > 0:
            # A span of nought or less deletes the key.
            redis.pexpire(key, left - int(seconds * 1000))
    _age_times(redis, settings.key_prefix, prefix, seconds)
    for record in IdempotencyRecord.objects.only("pk", "expires_at"):
        record.expires_at -= timedelta(seconds=seconds)
        record.save(update_fields=("expires_at",))


def _age_times(redis: Any, prefix: str, pattern: str, seconds: float) -> None:
    """Move the times that locks and breakers keep themselves."""
    for key in redis.scan_iter(match=f"{pattern}{leases.LEASE}{deduplication.LOCK}*", count=1000):
        _back(redis, key, ("since", "first", "called", "due"), int(seconds * 1000))
    for key in redis.scan_iter(match=f"{pattern}{breakers.STATE}*", count=1000):
        name = key.decode().removeprefix(prefix + breakers.STATE)
        _back(redis, key, ("since", "until"), int(seconds * 1_000_000))
        for attempt in redis.zrange(f"{prefix}{breakers.ATTEMPTS}{name}", 0, -1):
            redis.zincrby(f"{prefix}{breakers.ATTEMPTS}{name}", -seconds * 1_000_000, attempt)
        # Ends are counted by tenths of the window.
        window = json.loads(redis.hget(key, "config") or b'{"window": 1}')["window"]
        counts = f"{prefix}{breakers.COUNTS}{name}"
        older = int(seconds * 10 / window)
        moved = {f"{field[:1].decode()}{int(field[1:]) - older}": n for field, n in redis.hgetall(counts).items()}
        if moved and older:
            left = redis.pttl(counts)
            redis.delete(counts)
            redis.hset(counts, mapping=moved)
            redis.pexpire(counts, max(1, left))


def _back(redis: Any, key: bytes, fields: Sequence[str], by: int) -> None:
    for field, value in zip(fields, redis.hmget(key, fields), strict=True):
        if value is not None:
            redis.hset(key, field, int(value) - by)
