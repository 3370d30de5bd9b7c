"""What will not run again by itself is buried before it is acknowledged."""

from __future__ import annotations

from orchestrator.contracts import events
from orchestrator.contracts.message import Attempt, Letter
from orchestrator.contracts.outcome import Outcome
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import Letterbox


class DeadLetters(Policy):
    """Buries every outcome that has a reason.

    *Fails: closed. If the letterbox is unavailable its error passes, and the
    message stays unacknowledged until the letter is safe.*
    """

    def __init__(self, letterbox: Letterbox) -> None:
        self.letterbox = letterbox

    @classmethod
    def build(cls, parts: Parts) -> DeadLetters:
        """Take the letterbox."""
        return cls(parts.letterbox)

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Bury the attempt's letter.

        Raises:
            LetterboxUnavailable: the letter is not safe.
        """
        if outcome.reason is None:
            return
        letter: Letter = attempt.letter(outcome)
        self.letterbox.bury(letter)
        events.emit(
            events.LetterBuried(
                task=letter.task,
                task_id=letter.task_id,
                attempt_id=letter.attempt_id,
                reason=letter.reason.value,
                worker=letter.worker,
            )
        )
