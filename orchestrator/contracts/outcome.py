"""How an attempt can end: a closed set (idea: Oban's executor states)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class Verdict(enum.StrEnum):
    """Every way in which an attempt ends. Add a member only with a row in ``docs/endings.md``."""

    SUCCEEDED = "succeeded"
    REPLAYED = "replayed"
    RETRIED = "retried"
    DEFERRED = "deferred"
    REPLACED = "replaced"
    SKIPPED = "skipped"
    EXPIRED = "expired"
    REJECTED = "rejected"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    REVOKED = "revoked"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen under this task id by itself."""
        return self not in (Verdict.RETRIED, Verdict.DEFERRED, Verdict.REPLACED)


class Reason(enum.StrEnum):
    """Why a message lies in the inbox (idea: bunqueue keeps a reason per dead letter)."""

    FAILED = "failed"
    RETRIES_EXHAUSTED = "retries_exhausted"
    PERMANENT_ERROR = "permanent_error"
    SOFT_TIME_LIMIT = "soft_time_limit"
    TIME_LIMIT = "time_limit"
    WORKER_LOST = "worker_lost"
    POISON = "poison"
    REJECTED = "rejected"
    EXPIRED = "expired"
    RESULT_NOT_STORED = "result_not_stored"
    UNKNOWN_TASK = "unknown_task"
    INVALID_MESSAGE = "invalid_message"
    CONTENT_TYPE = "content_type"
    UNDECODABLE = "undecodable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended.

    ``reason`` is set if, and only if, the message belongs into the inbox.
    """

    verdict: Verdict
    reason: Reason | None = None
    error_type: str = ""
    error_message: str = ""
    traceback: str = ""
    #: What the body returned, or what its key's record says, where it is known.
    value: Any = None


class Defer(Exception):
    """Raise in a task: put the message back until later without counting a retry.

    Control flow, not an error. ``seconds`` is the delay before the next attempt.
    """

    def __init__(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"Defer(seconds={seconds!r}): the delay cannot be negative.")
        super().__init__(seconds)
        self.seconds = seconds


class RateLimited(Defer):
    """Raise in a task when the far side says "too many".

    Nobody starts under the task's rate limits for ``retry_after`` seconds; the message waits without counting a
    retry. ``limiter.acquire`` raises it when time runs out.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class Park(Defer):
    """A policy decides that the message has to wait in the line of a limit, outside its queue.

    ``waiting`` tells where; ``seconds`` is for brokers that have no lines.
    """

    def __init__(self, waiting: Any, seconds: float) -> None:
        super().__init__(seconds)
        self.waiting = waiting


class Skip(Exception):
    """A policy decides that this attempt must not run: a copy of it ran or runs already."""


class PermanentError(Exception):
    """Raise in a task, or subclass: no retry can help; the message goes straight to the inbox."""
