"""Every attempt that did not simply succeed is noted: the history of a task, retries and deferrals included."""

from __future__ import annotations

from orchestrator.contracts.message import Attempt, Letter
from orchestrator.contracts.outcome import Outcome
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import AttemptLog


class Attempts(Policy):
    """Notes how attempts end.

    *Fails: open. History is not worth holding a message for; what a person has to act
    on is the dead letter, which tells its earlier attempts itself.*
    """

    def __init__(self, log: AttemptLog) -> None:
        self.log = log

    @classmethod
    def build(cls, parts: Parts) -> Attempts:
        """Take the log."""
        return cls(parts.attempts)

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Note the attempt, once: a note with the same attempt id is the same note."""
        if attempt.letter is None:
            return
        # A letter is what is known of an attempt, redacted; only its message is left out.
        letter: Letter = attempt.letter(outcome)
        self.log.note(letter, outcome, attempt.started_at)
