"""Messages that wait for their time in the broker: look at them, call them off, run them now.

Writes by a person are the caller's to check and to audit.
"""

from __future__ import annotations

import redis

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.monitoring import queues
from orchestrator.monitoring.reach import REDIS_SCHEMES, broker_url, redis_url
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.streams import unavailable
from orchestrator.transport import delayed, office
from orchestrator.transport.delayed import Delayed
from orchestrator.transport.setback import Memory

#: Seconds that the broker may take to answer.
TIMEOUT = 5.0


def count() -> int:
    """Return how many messages wait for their time.

    Raises:
        redis.RedisError: the broker cannot be asked.
    """
    return delayed.count(_broker(), queues.keys())


def listed(*, offset: int = 0, limit: int = 100) -> list[Delayed]:
    """Return messages that wait, the nearest first; errors as for :func:`count`."""
    return delayed.listed(_broker(), queues.keys(), offset=offset, limit=limit)


def cancel(task_id: str) -> int:
    """Take the messages of a task out for good; return how many still waited."""
    broker, keys = _broker(), queues.keys()
    found = [delayed.cancel(broker, keys, name) for name in delayed.find(broker, keys, task_id)]
    cancelled = [message for message in found if message is not None]
    for message in cancelled:
        get_app().called_off(message)
    return len(cancelled)


def run_now(task_id: str) -> int:
    """Move the messages of a task to their queues now; return how many still waited."""
    broker, keys = _broker(), queues.keys()
    return sum(delayed.run_now(broker, keys, name) for name in delayed.find(broker, keys, task_id))


def keep_moving(memory: Memory | None = None) -> int:
    """Do what workers do for one another, for the time when none is there: move what is due, recover, bury.

    Args:
        memory: kept by a caller who comes again, to notice what the broker forgets.

    Returns:
        0, for it leaves nothing to be done at once.
    Raises:
        StoreUnavailable: the broker cannot be asked.
    """
    settings = conf.settings()
    url = broker_url()
    if settings.transport == "orchestrator" and url.startswith(REDIS_SCHEMES):
        try:
            office.duties(_broker(), queues.keys(), settings.lease_seconds, settings.max_deliveries, memory)
        except redis.RedisError as error:
            raise unavailable(redis_url(url), error) from error
    return 0


def _broker() -> redis.Redis:
    return client(redis_url(broker_url()), TIMEOUT)
