"""Tasks that take long enough to be hit."""

from __future__ import annotations

import time
from typing import Any

from orchestrator import PermanentError, Retries, task
from tests.support import far_side


@task(bind=True, retries=Retries(on=(ConnectionError,), limit=3, base=0.05, jitter=False))
def work(self: Any, key: str, seconds: float, how: str = "succeed") -> str:
    """Begin, take some time, and end as told: succeed, fail, permanent or waver (fail once, then succeed)."""
    far_side.record(f"begun:{key}", retries=self.request.retries)
    time.sleep(seconds)
    if how == "fail":
        raise LookupError(f"nothing under {key}")
    if how == "permanent":
        raise PermanentError(f"{key} is closed")
    if how == "waver" and not self.request.retries:
        raise ConnectionError(f"{key} refused once")
    far_side.record(f"done:{key}")
    return key
