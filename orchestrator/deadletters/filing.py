"""From a letter as it lies in the stream to the row that people see.

Whatever comes in, a row comes out: values that a database refuses are brought into
a form that it takes, and bytes that are no letter at all are kept as they are under
the reason ``undecodable``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.contracts import codec
from orchestrator.contracts.message import PUBLISHED_AS, Letter, WireMessage
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.deadletters.fingerprint import fingerprint
from orchestrator.deadletters.models import DeadLetter

#: Content type of a payload that is not a message but a letter nobody could read.
RAW_LETTER = "application/x-orchestrator-letter"

#: Largest count that every database holds in a positive integer.
MAX_COUNT = 2**31 - 1


def file_of(receipt: str, raw: bytes) -> DeadLetter:
    """Return the unsaved row of a record. Never fails."""
    try:
        return row_of(Letter.loads(raw))
    except Exception as error:  # a letter from any release, or from anybody: its bytes must survive
        return unreadable(receipt, raw, error)


def row_of(letter: Letter) -> DeadLetter:
    """Return the unsaved row of a letter."""
    row = DeadLetter(
        key=_key(_name(letter)),
        verdict=letter.verdict.value,
        reason=letter.reason.value,
        task=_short(letter.task),
        task_id=_short(letter.task_id),
        queue=_short(letter.queue or letter.message.queue),
        worker=_short(letter.worker),
        error_type=_short(letter.error_type),
        error_message=_storable(letter.error_message),
        traceback=_storable(letter.traceback),
        fingerprint=fingerprint(letter.task, letter.error_type, letter.error_message, letter.traceback),
        args_repr=_storable(letter.args_repr),
        kwargs_repr=_storable(letter.kwargs_repr),
        payload=codec.seal(letter.message),
        retries=_count(letter.retries),
        history=_storable_json(letter.history),
        root_id=_short(letter.root_id),
        parent_id=_short(letter.parent_id),
        group_id=_short(letter.group_id),
        redrive_of=_short(letter.redrive_of),
        published_at=_moment(letter.published_at),
        died_at=_moment(letter.died_at) or _now(),
    )
    row.search = projection(row)
    return row


def unreadable(receipt: str, raw: bytes, error: Exception) -> DeadLetter:
    """Return the row of a record that cannot become an ordinary one, with its bytes."""
    # The receipt too: two records with the same bytes are two letters.
    key = hashlib.blake2b(receipt.encode() + b"\0" + raw, digest_size=16).hexdigest()
    text = f"The letter could not be filed as it is: {type(error).__name__}: {error}"
    row = DeadLetter(
        key=f"raw-{key}",
        verdict=Verdict.UNKNOWN.value,
        reason=Reason.UNDECODABLE.value,
        error_type=type(error).__name__,
        error_message=_storable(text),
        fingerprint=fingerprint("", type(error).__name__, text, ""),
        payload=codec.seal(
            WireMessage(body=raw, content_type=RAW_LETTER, content_encoding="binary", headers={}, properties={})
        ),
        died_at=_now(),
    )
    row.search = projection(row)
    return row


def projection(row: DeadLetter) -> str:
    """Return the text that searches run on: redacted columns only, in lower case."""
    columns = (
        row.task,
        row.task_id,
        row.reason,
        row.queue,
        row.worker,
        row.error_type,
        row.error_message,
        row.args_repr,
        row.kwargs_repr,
    )
    return "\n".join(column for column in columns if column).lower()


def _name(letter: Letter) -> str:
    """Return what tells letters apart.

    A message may come twice: its process died after the letter was safe, and before the broker was told. It is one
    message all the same, which nobody may redrive twice.
    """
    message = letter.message
    if tag := message.properties.get(PUBLISHED_AS):
        body = hashlib.blake2b(message.body, digest_size=16).hexdigest()
        return f"message:{tag}:{letter.task_id}:{letter.retries}:{body}"
    return letter.attempt_id or f"{letter.task_id}:{letter.died_at}"


def _key(name: str) -> str:
    """Return a unique key that fits its column."""
    if len(name) <= 64 and name == _storable(name):
        return name
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def _short(text: object) -> str:
    """Return text that fits a column of 255; the whole of it is in the payload."""
    return _storable(text)[:255]


def _storable(text: object) -> str:
    """Return text without what PostgreSQL refuses: NUL and halves of surrogate pairs."""
    return str(text).replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _storable_json(value: Any) -> Any:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {_storable(key): _storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable_json(item) for item in value]
    return value


def _count(number: object) -> int:
    return min(max(number, 0), MAX_COUNT) if isinstance(number, int) else 0


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)


def _moment(seconds: object) -> datetime | None:
    """Return a time, or None for what is none."""
    if not isinstance(seconds, int | float) or not seconds:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
