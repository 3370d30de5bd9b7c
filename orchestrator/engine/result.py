"""What a publish returns."""

from __future__ import annotations

from celery.result import AsyncResult as CeleryResult


class AsyncResult(CeleryResult):  # type: ignore[misc]  # Celery is untyped
    """Celery's result, which also tells whether the call was a duplicate."""

    #: Id of the run that this call is a duplicate of, which is the ``id`` of this result, too; None for a first call.
    duplicate_of: str | None = None
