"""Dead letters whose columns a test chooses, for pages that show columns."""

from __future__ import annotations

from typing import Any

from orchestrator.contracts.outcome import Reason
from orchestrator.deadletters.models import DeadLetter
from tests.support.inbox import TASK, filed


def dead_letter(*args: Any, task: str = TASK, queue: str = "celery", **columns: Any) -> DeadLetter:
    """File a letter with a real message of Celery's and these columns, whatever filing would have made of them."""
    error = columns.setdefault("error_message", "no such order")
    row = filed(args, task=task, queue=queue, age=0.0, reason=Reason.FAILED, error_type="LookupError")
    columns.setdefault("fingerprint", "f" * 32)
    columns.setdefault("search", f"{task} {row.task_id} {error} {args!r}".lower())
    for name, value in columns.items():
        setattr(row, name, value)
    row.save()
    return row
