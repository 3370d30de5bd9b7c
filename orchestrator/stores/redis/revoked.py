"""Tasks that were called off: their ids, or stamps that they bear, kept for every worker that is, or will be.

On our transport they lie in the broker, where each claim looks for them; on others beside
the rest of the state, where workers look once a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from kombu.serialization import dumps, loads

from orchestrator.contracts.ports import Stamp
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.scripts import Script
from orchestrator.stores.redis.streams import unavailable

_revoke = Script("revoke")

#: Seconds for which an id is kept: longer than messages usually wait. What is delayed at the time may wait for longer.
KEPT = 14 * 24 * 3600
#: Ids kept at most, the latest.
MOST = 100_000
#: Ids that one call takes.
_CHUNK = 1000
#: Keys after the prefix; part of the format. The last is the transport's.
IDS, VERSION, DELAYED = "revoked", "revoked:version", "delayed"
STAMPS, STAMPS_VERSION = "revoked:stamps", "revoked:stamps:version"


def keep(connection: redis.Redis, prefix: str, ids: Iterable[str]) -> None:
    """Keep ids in a Redis. Doing it again is safe; errors are redis-py's."""
    _keep(connection, prefix, IDS, VERSION, [name for one in ids for name in _names(one)])


def keep_stamps(connection: redis.Redis, prefix: str, stamps: Iterable[Stamp]) -> None:
    """Keep stamps in a Redis. Doing it again is safe; errors are redis-py's.

    Raises:
        EncodeError: JSON cannot hold a stamp.
    """
    names = [str(dumps([header, value], serializer="json")[2]) for header, value in stamps]
    _keep(connection, prefix, STAMPS, STAMPS_VERSION, names)


def _keep(connection: redis.Redis, prefix: str, kept: str, version: str, names: Sequence[str]) -> None:
    for start in range(0, len(names), _CHUNK):
        _revoke(
            connection,
            keys=[prefix + kept, prefix + version, prefix + DELAYED],
            args=[KEPT * 1000, MOST, *names[start : start + _CHUNK]],
        )


def _names(task_id: str) -> list[str]:
    """Return how an id may stand in a message's text, so that a claim need not decode it."""
    return list(dict.fromkeys((json.dumps(task_id)[1:-1], json.dumps(task_id, ensure_ascii=False)[1:-1])))


def ids_of(names: Iterable[bytes]) -> list[str]:
    """Return the ids that were kept under these names."""
    return [str(json.loads(b'"%b"' % name)) for name in names]


def stamps_of(names: Iterable[bytes]) -> list[Stamp]:
    """Return the stamps that were kept under these names."""
    return [tuple(loads(name, "application/json", "utf-8", accept=("application/json",))) for name in names]


class RedisRevoked:
    """The same, beside the rest of the state (:class:`~orchestrator.contracts.ports.Revoked`)."""

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        self._url = url
        self._prefix = key_prefix
        self._timeout = timeout

    def add(self, ids: Iterable[str], stamps: Iterable[Stamp]) -> None:
        """Keep ids and stamps.

        Raises:
            EncodeError: JSON cannot hold a stamp.
            StoreUnavailable: Redis cannot be asked; doing it again is safe.
        """
        try:
            connection = client(self._url, self._timeout)
            keep(connection, self._prefix, ids)
            keep_stamps(connection, self._prefix, stamps)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    def since(self, version: str) -> tuple[str, list[str], list[Stamp]]:
        """Return the present version, and all ids and stamps if it is another than ``version``.

        Raises:
            StoreUnavailable: Redis cannot be asked.
        """
        try:
            connection = client(self._url, self._timeout)
            found: Any = connection.mget(self._prefix + VERSION, self._prefix + STAMPS_VERSION)
            now = " ".join((one or b"0").decode() for one in found)
            if now == version:
                return now, [], []
            names: Any = connection.zrange(self._prefix + IDS, 0, -1)
            stamps: Any = connection.zrange(self._prefix + STAMPS, 0, -1)
            return now, ids_of(names), stamps_of(stamps)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error
