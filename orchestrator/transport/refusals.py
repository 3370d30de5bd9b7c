"""What a broker that answered and refused means for whoever publishes."""

from __future__ import annotations

from dataclasses import dataclass

import redis
from redis.exceptions import ExecAbortError

#: How a server says that a key holds something else than a command is for.
WRONG_KIND = "wrong kind of value"
#: What stands in an answer -> what it means and the way out.
_WAYS_OUT = (
    ("maxmemory", "The broker's memory is full: raise its maxmemory, or let workers catch up."),
    (
        "read only replica",
        "CELERY_BROKER_URL leads to a replica: give the primary's address, or those of sentinels (sentinel://).",
    ),
    ("NOREPLICAS", "Too few replicas follow the broker (its min-replicas-to-write): it takes messages once they do."),
    ("MISCONF", "The broker cannot write to its disk: look into its log, and for free space."),
    (WRONG_KIND, "In the broker, the key with the queue's name is no list: rename or delete it."),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer by which nothing was stored; ``way_out`` is empty where we know none."""

    answer: str
    way_out: str


def refusal(error: BaseException | None) -> Refusal | None:
    """Return what a broker refused with, if that is why publishing failed.

    Scripts that publish write nothing before the command that may be refused.
    """
    found: redis.ResponseError | None = None
    while error is not None:
        # That a transaction was discarded says not why.
        if isinstance(error, redis.ResponseError) and (found is None or isinstance(found, ExecAbortError)):
            found = error
        error = error.__cause__ or error.__context__
    if found is None:
        return None
    # Before it stands the command, which may hold what nobody is to read.
    answer = str(found).rpartition(" of pipeline caused error: ")[2]
    return Refusal(answer, next((way for sign, way in _WAYS_OUT if sign in answer), ""))
