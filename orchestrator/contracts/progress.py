"""What is known of a task while it waits, runs and ends: one record, and which of two is the news.

A record lies in Redis until a relay has written it into the database. Several copies of
a message, several attempts and several processes report on one task id, and reports may
come late, so the rule is asked everywhere a record meets another: in Redis (in Lua,
``results_put.lua``), in the database and by readers.
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

#: States of a message that no worker has begun with.
QUEUED, DELAYED = "QUEUED", "DELAYED"


class Kind(enum.StrEnum):
    """What a state says, in one letter of the record's head."""

    WAITING = "W"
    STARTED = "A"
    BUSY = "B"
    RETRYING = "R"
    FAILED = "F"
    SUCCEEDED = "S"

    @property
    def final(self) -> bool:
        """Whether it is an end."""
        return self in (Kind.FAILED, Kind.SUCCEEDED)


_KINDS: Mapping[str, Kind] = {
    QUEUED: Kind.WAITING,
    DELAYED: Kind.WAITING,
    "PENDING": Kind.WAITING,
    "RECEIVED": Kind.WAITING,
    "STARTED": Kind.STARTED,
    "RETRY": Kind.RETRYING,
    "SUCCESS": Kind.SUCCEEDED,
    "FAILURE": Kind.FAILED,
    "REVOKED": Kind.FAILED,
}


def kind_of(status: str) -> Kind:
    """Return the kind of a state; a task's own states mean that it is being worked on."""
    return _KINDS.get(status, Kind.BUSY)


#: Kind, retries and start of a report: what decides between two. Retries are -1, a start 0, if it does not tell.
Standing = tuple[Kind, int, float]


def is_news(old: Standing, new: Standing) -> bool:  # noqa: PLR0911 - one line a rule
    """Return whether a report replaces what is known.

    A success stands. Any other end replaces what is no success. A report of an earlier attempt never replaces one
    of a later attempt, nor the start of an attempt what it came to; after a failure, and after a process died, a new
    run is shown, which began later. Who does not know the attempt replaces all but ends.
    """
    (old_kind, old_retries, old_started), (kind, retries, started) = old, new
    if Kind.SUCCEEDED in (old_kind, kind):
        return kind is Kind.SUCCEEDED
    if kind is Kind.FAILED:
        return True
    if Kind.WAITING in (old_kind, kind):
        return old_kind is Kind.WAITING
    if kind is Kind.STARTED and old_kind in (Kind.BUSY, Kind.FAILED) and started <= old_started:
        return False
    if retries < 0 <= old_retries:
        return old_kind is not Kind.FAILED
    if retries == old_retries:
        return kind is Kind.RETRYING or old_kind is not Kind.RETRYING
    return retries > old_retries


def _token() -> str:
    # Tells apart and guards nothing; the system's own source costs as much as the rest of a record.
    return f"{random.getrandbits(32):08x}"


def is_end(raw: bytes) -> bool:
    """Return whether a stored form ends an attempt."""
    return raw[2:3] in b"RFS"


@dataclass(slots=True)
class Record:
    """One report on a task.

    ``columns`` are those of the result's row that are known, without the times. ``at`` is
    when it was so, ``created`` when the task was first published, ``started`` when this
    attempt began: seconds since the epoch.
    """

    task_id: str
    status: str
    columns: dict[str, str]
    at: float
    retries: int = -1
    created: float | None = None
    started: float | None = None
    #: Tells this report from others on the same task.
    token: str = field(default_factory=_token)

    @property
    def standing(self) -> Standing:
        """What :func:`is_news` compares."""
        return kind_of(self.status), self.retries, self.started or 0.0

    def dumps(self) -> bytes:
        """Return the stored form: a head that Lua reads (version, kind, retries, start, token), then JSON."""
        started = "-" if self.started is None else f"{self.started:.6f}"
        body = json.dumps([self.status, self.at, self.created, self.columns])
        return f"1 {kind_of(self.status).value} {self.retries} {started} {self.token} {body}".encode()

    @classmethod
    def loads(cls, task_id: str, raw: bytes) -> Record:
        """Rebuild a record.

        Raises:
            ValueError: it is none, or of a later release.
        """
        version, _, retries, started, token, body = raw.split(b" ", 5)
        if version != b"1":
            raise ValueError(f"A result's record has version {version!r}; this release reads version 1.")
        status, at, created, columns = json.loads(body)
        return cls(
            task_id=task_id,
            status=status,
            columns=columns,
            at=at,
            retries=int(retries),
            created=created,
            started=None if started == b"-" else float(started),
            token=token.decode(),
        )
