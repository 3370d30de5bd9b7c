"""Messages that wait for a limit: look at them, and ask what holds a task up."""

from __future__ import annotations

from orchestrator.monitoring import queues
from orchestrator.monitoring.delayed import TIMEOUT
from orchestrator.monitoring.reach import broker_url, redis_url
from orchestrator.stores.redis.client import client
from orchestrator.transport import parking
from orchestrator.transport.parking import Parked


def listed(limit: str, *, offset: int = 0, count: int = 100) -> list[Parked]:
    """Return messages that wait for a limit, by its id, the next one first.

    Raises:
        redis.RedisError: the broker cannot be asked.
    """
    return parking.listed(client(redis_url(broker_url()), TIMEOUT), queues.keys(), limit, offset=offset, count=count)


def find(task_id: str) -> list[Parked]:
    """Return the messages of one task that wait, each with the limit that holds it up; errors as for :func:`listed`."""
    return parking.find(client(redis_url(broker_url()), TIMEOUT), queues.keys(), task_id)
