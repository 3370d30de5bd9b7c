"""The same task that does nothing, once under each policy that is measured."""

from __future__ import annotations

from orchestrator import Breaker, Concurrency, Deduplicate, Idempotent, RateLimit, task


@task(ignore_result=True)
def plain(number: str) -> None:
    """Return at once."""


@task(ignore_result=True, idempotency=Idempotent(key="n-{number}", ttl=600))
def idempotent(number: str) -> None:
    """Return at once, and never again for the same number."""


@task(ignore_result=True, limits=[RateLimit("benchmark", "1000000/s", algorithm="gcra", burst=1000000)])
def limited(number: str) -> None:
    """Return at once, under a rate that nobody reaches."""


@task(ignore_result=True, limits=[RateLimit("benchmark-sliding", "10000/s")])
def windowed(number: str) -> None:
    """Return at once, under a sliding window that nobody fills."""


@task(ignore_result=True, limits=[Concurrency("benchmark-slots", 100)])
def slotted(number: str) -> None:
    """Return at once, in one of more slots than there are processes."""


@task(ignore_result=True, deduplication=Deduplicate("until_started", key="{number}"))
def once_waiting(number: str) -> None:
    """Return at once; one call of each number waits."""


@task(ignore_result=True, deduplication=Deduplicate("until_finished", key="{number}"))
def once_under_way(number: str) -> None:
    """Return at once; one call of each number is under way."""


@task(ignore_result=True, breaker=Breaker("benchmark"))
def behind_breaker(number: str) -> None:
    """Return at once, behind a breaker that stays closed."""


#: Policy -> its task.
MEASURED = {
    "idempotency": idempotent,
    "limits": limited,
    "limits_sliding": windowed,
    "limits_slots": slotted,
    "deduplication_until_started": once_waiting,
    "deduplication_until_finished": once_under_way,
    "breaker": behind_breaker,
}

__all__ = ["MEASURED", "plain"]
