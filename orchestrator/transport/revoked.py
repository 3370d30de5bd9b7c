"""Tasks that were called off, where messages are claimed: no claim lets one start.

A claim looks each message up by the ids in its text. Who claims is told which of them
were called off before it gets the messages, and ends those instead of starting them.
*Fails: with the claim. While the broker cannot be asked, nothing is claimed.*
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import redis
from kombu.exceptions import OperationalError

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.stores.redis import revoked as store

_refuse: Callable[[Iterable[str]], object] | None = None


def keep(connection: Any, ids: Collection[str]) -> None:
    """Keep ids in a broker: from now on no claim lets their tasks start.

    Args:
        connection: kombu's, by a transport of ours.

    Raises:
        StoreUnavailable: they may not be kept; doing it again is safe.
    """
    try:
        channel = connection.default_channel
        store.keep(channel.raw, channel.keys.ours, ids)
    except (redis.RedisError, OperationalError, OSError) as error:
        raise StoreUnavailable(
            f"{len(ids)} task(s) are not called off: {error}. Look after the broker (CELERY_BROKER_URL), then retry."
        ) from error


def refuse_with(refuse: Callable[[Iterable[str]], object]) -> None:
    """Say who ends messages whose tasks were called off; without anybody they are handed out like others.

    Args:
        refuse: called with ids, in the thread that claims, before their messages are handed out. Ids of other tasks
            that were called off may be among them.
    """
    global _refuse  # noqa: PLW0603 - one worker a process
    _refuse = refuse


def found(names: Iterable[bytes]) -> None:
    """Pass on what a claim found in the texts of its messages."""
    if names and _refuse is not None:
        _refuse(store.ids_of(names))
