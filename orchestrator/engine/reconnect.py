"""A lost broker connection must not start a task twice: what runs is kept, the rest returned.

Celery drops its books when a connection breaks and trusts the broker to deliver again,
also what its pool is just working on. On our transport an acknowledgement needs no
particular connection, so everything that reached a pool process stays ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery.worker import state

from orchestrator.transport import office


@contextmanager
def kept(pool: Any) -> Iterator[None]:
    """While Celery clears its books, hold on to what the pool works on; return the rest afterwards."""
    jobs = _written(pool)
    for job in jobs:
        # Celery's pool forgets what no process has confirmed, although it has been written to one and will run.
        job._accepted = True
    requests = [request for request in tuple(state.reserved_requests) if _works_on(request)]
    try:
        yield
    finally:
        for job in jobs:
            job._accepted = False
        known = _cache(pool)
        kept = [request for request in requests if known is None or request._apply_result().job_id in known]
        for request in kept:
            state.reserved_requests.add(request)
            state.requests[request.id] = request
        tags = {str(request.message.delivery_tag) for request in (*kept, *state.active_requests)}
        office.give_back_orphans(tags)


def keeping() -> Any:
    """Return a context manager: channels that close within it keep what they handed out."""
    return office.keeping()


def _works_on(request: Any) -> bool:
    result = getattr(request, "_apply_result", None)
    return result is not None and result() is not None


def _cache(pool: Any) -> Any:
    """Jobs that a prefork pool knows, by number; None for pools that forget nothing."""
    return getattr(getattr(pool, "_pool", None), "_cache", None)


def _written(pool: Any) -> list[Any]:
    cache = _cache(pool)
    if not isinstance(cache, dict):
        return []
    return [job for job in cache.values() if not job._accepted and getattr(job, "_write_to", None) is not None]
