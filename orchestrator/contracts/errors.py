"""The exception tree.

::

    OrchestratorError
    ├─ ConfigurationError          UnknownOption · InvalidOption
    ├─ PublishError                UnknownTask · MessageTooBig · Unroutable
    ├─ StoreUnavailable            LetterboxUnavailable · BrokerUnavailable
    ├─ RedriveError                AlreadyClosed · TaskMissing · PayloadIncompatible · PayloadUnreadable
    └─ IdempotencyConflict

A class docstring is the default message, so the text that a user meets and the
text in the reference are one (idea: Procrastinate's exceptions module).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from orchestrator.contracts.outcome import PermanentError


class OrchestratorError(Exception):
    """Something in Orchestrator went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().split("\n\n", 1)[0])


class ConfigurationError(OrchestratorError):
    """A setting or a declaration is wrong; the message names it and the way out."""


class UnknownOption(ConfigurationError):
    """An option that nobody understands was given."""

    @classmethod
    def among(cls, name: str, known: Iterable[str], where: str) -> UnknownOption:
        """Build the error with the nearest known name as a suggestion."""
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}."
        return cls(f"Unknown option {name!r} for {where}{hint}")


class InvalidOption(ConfigurationError):
    """An option has a value that cannot work."""


class PublishError(OrchestratorError):
    """A message could not be published."""


class UnknownTask(PublishError):
    """No task is registered under this name."""


class MessageTooBig(PublishError):
    """The arguments of a task are more than a message may hold; nothing was sent."""


class Unroutable(PublishError):
    """No queue would take this message; nothing was sent."""


class StoreUnavailable(OrchestratorError):
    """A store that this action needs cannot be reached."""


class LetterboxUnavailable(StoreUnavailable):
    """The dead letter could not be stored, so its message stays unacknowledged."""


class BrokerUnavailable(StoreUnavailable):
    """The broker cannot be reached."""

    def __init__(self, message: str | None = None, *, maybe_sent: bool = True) -> None:
        """Say whether the message may have been sent all the same; False only if that is certain."""
        super().__init__(message)
        self.maybe_sent = maybe_sent


class RedriveError(OrchestratorError):
    """This dead letter cannot be redriven."""


class AlreadyClosed(RedriveError):
    """This dead letter was already redriven or discarded."""


class TaskMissing(RedriveError):
    """The task of this dead letter is not registered in this process."""


class PayloadIncompatible(RedriveError):
    """The arguments no longer fit the task's signature."""


class PayloadUnreadable(RedriveError):
    """The message of this dead letter cannot be decoded, so it cannot be edited."""


class IdempotencyConflict(OrchestratorError, PermanentError):
    """An idempotency key was used again for a call with other arguments."""
