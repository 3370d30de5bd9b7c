"""Orchestrator: a Celery task platform for Django with the batteries included.

The public surface. Import-safe: nothing here reads a setting or a model, and what
needs Celery is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.contracts import errors
from orchestrator.contracts.fencing import fencing
from orchestrator.contracts.idempotency import Idempotent
from orchestrator.contracts.options import Retries
from orchestrator.contracts.outcome import Defer, PermanentError

if TYPE_CHECKING:
    from orchestrator.celery import OrchestratorApp, results
    from orchestrator.engine.progress import progress
    from orchestrator.engine.task import OrchestratedTask, task

__version__ = "0.1.0"

__all__ = [
    "Defer",
    "Idempotent",
    "OrchestratedTask",
    "OrchestratorApp",
    "PermanentError",
    "Retries",
    "errors",
    "fencing",
    "progress",
    "results",
    "task",
]


def __getattr__(name: str) -> Any:
    if name in ("OrchestratedTask", "task"):
        from orchestrator.engine import task as module

        return getattr(module, name)
    if name == "progress":
        from orchestrator.engine.progress import progress

        return progress
    if name in ("OrchestratorApp", "results"):
        from orchestrator import celery

        return getattr(celery, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
