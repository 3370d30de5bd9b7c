"""A message that is too big is refused before anything is sent or stored."""

from __future__ import annotations

from typing import Any

from kombu.exceptions import EncodeError
from kombu.serialization import dumps

from orchestrator.contracts.errors import MessageTooBig
from orchestrator.contracts.message import Publication
from orchestrator.engine import keeping

_FIXED = frozenset({int, float, bool, type(None)})
#: Characters of a text that cannot matter, and how many such arguments cannot.
_SMALL, _FEW = 1000, 20


def check(app: Any, publication: Publication) -> None:
    """Refuse arguments that make a message bigger than allowed.

    Raises:
        MessageTooBig: says how big, what is allowed and what to do.
    """
    if _certainly_small(publication.args) and _certainly_small(publication.kwargs):
        return
    serializer = publication.options.get("serializer") or app.conf.task_serializer
    try:
        body = dumps((publication.args, publication.kwargs, {}), serializer=serializer)[2]
    except (EncodeError, LookupError):
        return  # whoever serialises it next says so better
    check_bytes(app, publication, len(body))


def check_bytes(app: Any, publication: Publication, size: int) -> None:
    """Refuse a message of ``size`` bytes if that is too big; see :func:`check`."""
    limit = app.message_limit
    # What a worker publishes for itself follows from work that is done: refusing it would undo nothing.
    if size <= limit or publication.republication or keeping.of_the_worker(publication):
        return
    raise MessageTooBig(
        f"{publication.name}[{publication.task_id}] is a message of {size:,} bytes, and "
        f"ORCHESTRATOR['MESSAGE_LIMIT_BYTES'] allows {limit:,}. It was not sent. Put the data where workers find it "
        "(a file, a row, an object store) and pass its name or id, or raise the limit."
    )


def _certainly_small(values: Any) -> bool:
    if not values:
        return True
    if len(values) > _FEW:
        return False
    items = values.values() if isinstance(values, dict) else values
    return all(
        kind in _FIXED or (kind is str and len(item) < _SMALL) for item, kind in ((item, type(item)) for item in items)
    )
