"""The same task that does nothing, once under each policy that is measured."""

from __future__ import annotations

from orchestrator import Idempotent, task


@task(ignore_result=True)
def plain(number: str) -> None:
    """Return at once."""


@task(ignore_result=True, idempotency=Idempotent(key="n-{number}", ttl=600))
def idempotent(number: str) -> None:
    """Return at once, and never again for the same number."""


@task(ignore_result=True)
def mark(key: str) -> None:
    """Tell that everything before has been done."""
    from django.conf import settings
    from redis import Redis

    Redis.from_url(settings.CELERY_BROKER_URL).lpush(key, "done")


#: Policy -> its task.
MEASURED = {"idempotency": idempotent}

__all__ = ["MEASURED", "idempotent", "mark", "plain"]
