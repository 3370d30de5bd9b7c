"""Tasks whose process dies right after what follows them was published, and before they are acknowledged."""

from __future__ import annotations

import os
import signal
from typing import Any

from orchestrator import Defer, task
from tests.support import far_side

#: What a worker needs to know them.
ENV = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.doomed"}


def _die_once(key: str) -> None:
    if len(far_side.effects(f"{key}:died")) == 0:
        far_side.record(f"{key}:died")
        os.kill(os.getpid(), signal.SIGKILL)


def _on_retry(self: Any, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
    _die_once(args[0])


def _on_success(self: Any, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
    _die_once(args[0])


@task(bind=True, ignore_result=True, on_retry=_on_retry)
def retry_and_die(self: Any, key: str, how: str = "retry") -> None:
    """Fail once, or wait once; the process dies when the next message is on its way."""
    far_side.record(f"{key}:{self.request.retries}:{self.request.get('orchestrator', {}).get('deferrals', 0)}")
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    if how == "defer" and not self.request.get("orchestrator", {}).get("deferrals"):
        raise Defer(0.0)


@task(ignore_result=True, on_success=_on_success)
def succeed_and_die(key: str) -> str:
    """Succeed; the process dies when what follows is on its way."""
    far_side.record(f"{key}:first")
    return key


@task(ignore_result=True)
def follow(key: str) -> None:
    """Come after."""
    far_side.record(f"{key}:second")
