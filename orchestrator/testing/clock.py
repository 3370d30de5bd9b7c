"""A clock that a test sets: what expires in the stores grows old at once."""

from __future__ import annotations

from datetime import timedelta

from orchestrator import conf
from orchestrator.idempotency.models import IdempotencyRecord
from orchestrator.stores.redis.client import client

#: Characters that mean something in a Redis key pattern.
SIGNS = "*?[]\\^-"


def advance(seconds: float) -> None:
    """Let leases and records be ``seconds`` older.

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
    for record in IdempotencyRecord.objects.only("pk", "expires_at"):
        record.expires_at -= timedelta(seconds=seconds)
        record.save(update_fields=("expires_at",))
