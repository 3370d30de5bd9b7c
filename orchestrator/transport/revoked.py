"""Tasks that were called off, where messages are claimed: no claim lets one start.

A claim looks each message up by the ids in its text. Who claims is told which of them
were called off before it gets the messages, and ends those instead of starting them.
Stamps that were called off it is told as a whole, when there are others than it knows.
*Fails: with the claim. While the broker cannot be asked, nothing is claimed.*
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import redis
from kombu.exceptions import OperationalError

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.ports import Stamp
from orchestrator.stores.redis import revoked as store

_refuse: Callable[[Iterable[str]], object] | None = None
_refuse_stamps: Callable[[Iterable[Stamp]], object] | None = None
#: Of the stamps that this process knows to be called off.
_version = ""


def keep(connection: Any, ids: Collection[str] = (), stamps: Collection[Stamp] = ()) -> None:
    """Keep ids and stamps in a broker: from now on no claim lets their tasks start.

    Args:
        connection: kombu's, by a transport of ours.

    Raises:
        StoreUnavailable: they may not be kept; doing it again is safe.
    """
    try:
        channel = connection.default_channel
        store.keep(channel.raw, channel.keys.ours, ids)
        store.keep_stamps(channel.raw, channel.keys.ours, stamps)
    except (redis.RedisError, OperationalError, OSError) as error:
        what = f"{len(ids)} task(s)" if ids else f"Tasks with {len(stamps)} stamp(s)"
        raise StoreUnavailable(
            f"{what} are not called off: {error}. Look after the broker (CELERY_BROKER_URL), then retry."
        ) from error


def refuse_with(ids: Callable[[Iterable[str]], object], stamps: Callable[[Iterable[Stamp]], object]) -> None:
    """Say who ends messages whose tasks were called off; without anybody they are handed out like others.

    Args:
        ids: called with ids, in the thread that claims, before their messages are handed out. Ids of other tasks
            that were called off may be among them.
        stamps: called with all stamps that were called off, before the next messages are handed out.
    """
    global _refuse, _refuse_stamps, _version
    _refuse, _refuse_stamps, _version = ids, stamps, ""


def version() -> str:
    """Return which stamps this process knows to be called off."""
    return _version


def found(names: Iterable[bytes], stamps: Sequence[bytes]) -> None:
    """Pass on what a claim found.

    Args:
        names: of ids in the texts of its messages.
        stamps: a version, and the names of all stamps; nothing if they are known.
    """
    global _version  # noqa: PLW0603 - one worker a process
    if names and _refuse is not None:
        _refuse(store.ids_of(names))
    if stamps and _refuse_stamps is not None:
        _refuse_stamps(store.stamps_of(stamps[1:]))
        _version = stamps[0].decode()
