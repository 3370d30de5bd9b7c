"""When a message is due and when it expires, where RabbitMQ would make something of its own out of that.

Celery hands RabbitMQ an expiry as the message's time to live: what is too old is dropped in its queue, and no state,
no letter and no freed lock ever tells of it. And for what is due within a second it asks quorum queues for a delay of
nought seconds, which is refused. So both travel in the message's headers only, where workers look in any case.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from celery.utils.time import add_seconds_to_datetime, maybe_make_aware

SCHEMES = ("amqp:", "amqps:", "pyamqp:", "librabbitmq:")
#: Seconds. The shortest delay that RabbitMQ is asked for; a worker keeps what is due sooner.
SHORTEST = 1.0


def keep(app: Any, options: dict[str, Any]) -> None:
    """Move times of a message into its headers, if the broker is a RabbitMQ."""
    soon, expires = options.get("countdown") or options.get("eta"), options.get("expires")
    if (soon is None and expires is None) or not _rabbitmq(app):
        return
    headers = dict(options.get("headers") or {})
    if expires is not None:
        headers["expires"] = _moment(app, expires).isoformat()
        # None, not left away: Celery would take the task's own.
        options["expires"] = None
    if soon and 0 < (due := _moment(app, soon)).timestamp() - app.now().timestamp() < SHORTEST:
        headers["eta"] = due.isoformat()
        options["countdown"] = options["eta"] = None
    options["headers"] = headers


def outside(app: Any, seconds: float) -> float:
    """Return for how long a deferred message waits, so that none of it is spent in a worker.

    RabbitMQ delays by whole seconds, and a worker that holds the rest takes nothing else meanwhile.
    """
    return max(SHORTEST, math.ceil(seconds)) if _rabbitmq(app) else seconds


def _rabbitmq(app: Any) -> bool:
    url = app.conf.broker_write_url or ""
    first = url if isinstance(url, str) else next(iter(url), "")
    return str(first).startswith(SCHEMES)


def _moment(app: Any, given: Any) -> datetime:
    """Return a time that is given as Celery takes it: seconds from now, a datetime, or its text."""
    if isinstance(given, str):
        given = datetime.fromisoformat(given)
    elif not isinstance(given, datetime):
        given = add_seconds_to_datetime(app.now(), given)
    found: datetime = maybe_make_aware(given, tz=app.timezone)
    return found
