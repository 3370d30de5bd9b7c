"""A tracked task shows as queued or delayed before a worker begins with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from orchestrator.contracts.message import Publication
from orchestrator.contracts.policy import Parts, Policy
from orchestrator.contracts.ports import Dispatch, ProgressLog
from orchestrator.contracts.progress import DELAYED, QUEUED, Record


class Tracking(Policy):
    """Reports what was published of tasks with ``tracked=True``; from their start on all tasks are reported.

    *Fails: open. A state that cannot be shown keeps nothing from being sent.*
    """

    def __init__(self, log: ProgressLog, dispatch: Dispatch) -> None:
        self.log = log
        self.dispatch = dispatch

    @classmethod
    def build(cls, parts: Parts) -> Tracking:
        """Take the log."""
        return cls(parts.progress, parts.dispatch)

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Report a message that was sent; one that waits for a transaction when that commits."""
        if not getattr(publication.task, "tracked", False) or publication.republication:
            return proceed(publication)
        record, place = self._record(publication), self.dispatch.place(publication)
        sent = proceed(publication)
        if getattr(sent, "duplicate_of", None) is None:
            self.log.tell(record, place)
        return sent

    @staticmethod
    def _record(publication: Publication) -> Record:
        options = publication.options
        columns = {"content_type": "application/json", "content_encoding": "utf-8", "task_name": publication.name}
        for name in ("args", "kwargs"):
            text = options.get(f"{name}repr")
            if text is not None:
                columns[f"task_{name}"] = json.dumps(text)
        later = options.get("eta") is not None or (options.get("countdown") or 0) > 0
        at = publication.header.get("at") or time.time()
        return Record(publication.task_id, DELAYED if later else QUEUED, columns, at, retries=0, created=at)
