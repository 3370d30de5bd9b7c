"""A project whose processes cannot start while a file named ``gate`` lies in the test run's directory."""

from __future__ import annotations

import sys
from typing import Any

from celery.signals import worker_process_init

from tests.support import environment


@worker_process_init.connect
def refuse(**_: Any) -> None:
    """End the process."""
    if (environment.directory() / "gate").exists():
        # Celery swallows what receivers of its signals raise, but not this.
        sys.exit(3)
