"""Dead letters whose columns a test chooses, for pages that show columns."""

from __future__ import annotations

import base64
from collections.abc import Mapping
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


def body_of(message: Mapping[str, Any]) -> bytes:
    """Return the body of a message as it lies in a Redis: plain on our transport where it is text, else base64."""
    body: str = message["body"]
    return base64.b64decode(body) if message["properties"].get("body_encoding") == "base64" else body.encode()
