"""Tasks behind a circuit breaker."""

from __future__ import annotations

import os
import signal
from typing import Any

from orchestrator import Breaker, PermanentError, Retries, task
from tests.support import far_side

#: What a worker needs to know them: ``env=circuits.ENV``.
ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.circuits"}

FAR = Breaker("far", minimum=3, cooldown=1.0)
FRAGILE = Breaker("fragile", minimum=2)


@task(bind=True, breaker=FAR, retries=Retries(on=(ConnectionError,), limit=50, base=0.05, jitter=False, cap=0.05))
def reach(self: Any, key: str) -> str:
    """Fail for as long as the far side is down."""
    down = not far_side.effects("up")
    far_side.record("reached", order=key, retries=self.request.retries, down=down)
    if down:
        raise ConnectionError("down")
    return key


@task(breaker=FRAGILE)
def end(how: str) -> str:
    """End as told."""
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "permanent":
        raise PermanentError("no such account")
    return how
