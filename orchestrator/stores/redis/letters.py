"""The letters stream: dead letters are safe here from before the ack until they are rows."""

from __future__ import annotations

from orchestrator.contracts.errors import LetterboxUnavailable, StoreUnavailable
from orchestrator.contracts.message import Letter
from orchestrator.stores.redis.streams import RECLAIM_SECONDS, RedisStream, StreamSource

#: Stream key after the prefix, and the field that holds a letter; part of the format.
STREAM = "letters"
FIELD = "letter"


def letters_stream(url: str, key_prefix: str, timeout: float) -> RedisStream:
    """Return the letters stream of a Redis."""
    return RedisStream(url, f"{key_prefix}{STREAM}", field=FIELD, timeout=timeout)


class RedisLetterbox:
    """Where workers put letters (:class:`~orchestrator.contracts.ports.Letterbox`).

    Safe in a parent and its forked children alike: each process connects for itself.
    """

    def __init__(self, url: str, key_prefix: str, timeout: float) -> None:
        self._stream = letters_stream(url, key_prefix, timeout)

    def bury(self, letter: Letter) -> None:
        """Store a letter.

        Raises:
            LetterboxUnavailable: it is not known to be stored; the message must stay.
        """
        try:
            self._stream.append(letter.dumps())
        except StoreUnavailable as error:
            raise LetterboxUnavailable(
                f"The dead letter of task {letter.task}[{letter.task_id}] could not be stored, so its message stays "
                f"on the broker and is delivered again. {error}"
            ) from error


class RedisLetterSource(StreamSource):
    """Where the relay takes letters from (:class:`~orchestrator.contracts.ports.LetterSource`)."""

    def __init__(self, url: str, key_prefix: str, timeout: float, *, reclaim_seconds: float = RECLAIM_SECONDS) -> None:
        super().__init__(letters_stream(url, key_prefix, timeout), reclaim_seconds=reclaim_seconds)
