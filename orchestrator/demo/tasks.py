"""The reference project's tasks, found by name: they are no part of the package."""

from __future__ import annotations

from functools import cache
from typing import Any

from orchestrator.celery import get_app


@cache
def _loaded() -> Any:
    app = get_app()
    app.loader.import_default_modules()
    return app


def named(name: str) -> Any:
    """Return a registered task.

    Raises:
        LookupError: the project does not have it.
    """
    try:
        return _loaded().tasks[name]
    except KeyError:
        raise LookupError(f"No task {name!r}: is it in CELERY_IMPORTS of the settings?") from None


def failure(task_id: str) -> str:
    """Return the error of a task that ended badly, '' of any other."""
    result = get_app().AsyncResult(task_id)
    return f"{type(result.result).__name__}: {result.result}" if result.state == "FAILURE" else ""


def succeeded(task_id: str) -> bool:
    """Say whether a task's success is recorded."""
    return bool(get_app().AsyncResult(task_id).state == "SUCCESS")
