"""Tasks that declare time limits; for prefork workers only."""

from __future__ import annotations

import time

from orchestrator import task
from tests.support import far_side


@task(soft_time_limit=1, time_limit=20)
def softly(key: str) -> None:
    """Run into its own soft limit."""
    far_side.record(key)
    time.sleep(60)


@task(time_limit=1)
def hardly(key: str) -> None:
    """Run into a hard limit that is declared alone."""
    far_side.record(key)
    time.sleep(60)
