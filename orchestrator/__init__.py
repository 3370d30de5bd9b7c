"""Orchestrator: a Celery task platform for Django with the batteries included.

The public surface. Import-safe: nothing here reads a setting or a model, and what
needs Celery is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.contracts import errors
from orchestrator.contracts.breaker import Breaker
from orchestrator.contracts.deduplication import Deduplicate
from orchestrator.contracts.fencing import fencing
from orchestrator.contracts.idempotency import Idempotent
from orchestrator.contracts.limits import Concurrency, RateLimit
from orchestrator.contracts.options import Retries
from orchestrator.contracts.outcome import Defer, PermanentError, RateLimited

if TYPE_CHECKING:
    from orchestrator.celery import OrchestratorApp, bulk, results
    from orchestrator.engine.progress import progress
    from orchestrator.engine.task import OrchestratedTask, task
    from orchestrator.limits.outside import limiter

__version__ = "0.1.0"

__all__ = [
    "Breaker",
    "Concurrency",
    "Deduplicate",
    "Defer",
    "Idempotent",
    "OrchestratedTask",
    "OrchestratorApp",
    "PermanentError",
    "RateLimit",
    "RateLimited",
    "Retries",
    "bulk",
    "errors",
    "fencing",
    "limiter",
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
    if name == "limiter":
        from orchestrator.limits.outside import limiter

        return limiter
    if name in ("OrchestratorApp", "bulk", "results"):
        from orchestrator import celery

        return getattr(celery, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
