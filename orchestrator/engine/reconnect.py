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

from orchestrator.engine import holding
from orchestrator.transport import office


@contextmanager
def kept(pool: Any) -> Iterator[None]:
    """While Celery clears its books, hold on to what the pool works on; return the rest afterwards."""
    if not office.in_use():
        yield
        return
    jobs = _written(pool)
    for job in jobs:
        # Celery's pool forgets what no process has confirmed, although it has been written to one and will run.
        job._accepted = True
    requests = [request for request in tuple(state.reserved_requests) if request._apply_result is not None]
    try:
        yield
    finally:
        for job in jobs:
            job._accepted = False
        kept = [request for request in requests if _works_on(pool, request)]
        for request in kept:
            state.reserved_requests.add(request)
            state.requests[request.id] = request
        messages = [request.message for request in (*kept, *state.active_requests)]
        office.give_back_orphans({str(message.delivery_tag) for message in (*messages, *holding.messages())})


@contextmanager
def keeping(app: Any) -> Iterator[None]:
    """Channels that close meanwhile keep what they handed out."""
    if office.in_use():
        # What still runs counts against the new channel's prefetch, so Celery need not guess.
        app.conf.worker_enable_prefetch_count_reduction = False
    with office.keeping():
        yield


def _works_on(pool: Any, request: Any) -> bool:
    cache = _cache(pool)
    if cache is None:  # pools of threads forget nothing
        return True
    job = request._apply_result()
    return job is not None and job._job in cache


def _cache(pool: Any) -> Any:
    """Jobs that a prefork pool knows, by number; None for other pools."""
    return getattr(getattr(pool, "_pool", None), "_cache", None)


def _written(pool: Any) -> list[Any]:
    jobs = (_cache(pool) or {}).values()
    return [job for job in jobs if not job._accepted and getattr(job, "_write_to", None) is not None]
