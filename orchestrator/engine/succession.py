"""What follows from what: a publication that two may make, who do not know of each other, is made once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from orchestrator.contracts.message import HEADER, ONCE, Publication

_cause: ContextVar[str] = ContextVar("cause", default="")


@contextmanager
def following(cause: str) -> Iterator[None]:
    """Publish in here what follows from ``cause``, by whomever that is seen; see ``EngineApp.following``."""
    token = _cause.set(cause)
    try:
        yield
    finally:
        _cause.reset(token)


def caused() -> bool:
    """Whether what is published here follows from something that others may see, too."""
    return bool(_cause.get())


def name(publication: Publication, request: Any) -> None:
    """Name what a cause or a delivery leads to: seen again, it leads to the same, which then is not published again.

    The id alone would not do: somebody may send one id twice on purpose, and both may be retried.

    Args:
        request: of the task that runs here; None if none does.
    """
    cause = _cause.get()
    if cause:
        _name(publication, cause)
        return
    parent: Mapping[str, Any] = (request.get(HEADER) if request is not None else None) or {}
    sent_at = parent.get("at")
    if sent_at is not None:
        _name(publication, request.id, sent_at, request.retries or 0, parent.get("deferrals", 0))


def _name(publication: Publication, *leading_there: Any) -> None:
    own = publication.header
    parts = (
        *leading_there,
        *(publication.name, publication.task_id, publication.options.get("retries") or 0, own.get("deferrals", 0)),
    )
    own[ONCE] = hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()
