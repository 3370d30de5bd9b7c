"""From ``send_task`` arguments to a publication and back."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import cache
from typing import Any

from celery._state import _task_stack
from celery.utils import uuid

from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.message import HEADER, HEADER_VERSION, Parcel, Publication
from orchestrator.engine import keeping

#: Positional parameters of ``Celery.send_task`` after ``name, args, kwargs``.
POSITIONAL = ("countdown", "eta", "task_id", "producer", "connection", "router", "result_cls", "expires")


def describe(
    app: Any, name: str, args: Any, kwargs: Any, rest: tuple[Any, ...], options: dict[str, Any]
) -> Publication:
    """Build the publication for one ``send_task`` call.

    A publish is *not* new if it carries retries or the id of the task that is
    running here: a retry, a deferral, or the successor of ``Task.replace()``.

    Raises:
        UnknownOption: an option looks like a slip of ours.
    """
    if rest:
        options.update(zip(POSITIONAL, rest, strict=False))
    task_id = options.pop("task_id", None) or uuid()
    outbox = options.pop("outbox", None)
    for option in options:
        if _slip(option):
            # Celery would carry it along as a property of the message and nobody would ever know.
            raise UnknownOption.among(option, ("outbox",), f"publishing {name}")
    current = _task_stack.top
    headers = options.get("headers")
    carried = headers.get(HEADER) if headers else None
    return Publication(
        name=name,
        task_id=task_id,
        args=args or (),
        kwargs=kwargs or {},
        options=options,
        task=options.get("task_type") or app._tasks.get(name),
        republication=bool(options.get("retries")) or (current is not None and current.request.id == task_id),
        header=dict(carried) if carried else {"v": HEADER_VERSION},
        outbox=outbox,
    )


@cache
def _slip(option: str) -> bool:
    """Whether a name looks like a slip of our own option."""
    return bool(difflib.get_close_matches(option, ("outbox",), n=1, cutoff=0.75))


def sender(app: Any, send_task: Callable[..., Any]) -> Callable[[Publication], Any]:
    """Return the innermost step of the publish chain: Celery's own ``send_task``, or the outbox."""

    def send(publication: Publication) -> Any:
        options = publication.options
        headers = options.pop("headers", None)
        options["headers"] = {**headers, HEADER: publication.header} if headers else {HEADER: publication.header}
        outbox = app.outbox
        if outbox is None or keeping.of_the_worker(publication) or options.get("connection") is not None:
            _refuse_without(outbox, publication)
            return _direct(send_task, publication)
        place = outbox.place(publication.outbox)
        if place is not None:
            result, parcel = _built(send_task, publication)
            outbox.keep(parcel, place)
            return result
        if publication.outbox is False or not outbox.fallback:
            return _direct(send_task, publication)
        try:
            return _direct(send_task, publication)
        except Exception as error:
            if not keeping.broker_refused(app, error):
                raise
            result, parcel = _built(send_task, publication)
            outbox.rescue(parcel, error)
            return result

    return send


def _direct(send_task: Callable[..., Any], publication: Publication) -> Any:
    return send_task(
        publication.name, publication.args, publication.kwargs, task_id=publication.task_id, **publication.options
    )


def _built(send_task: Callable[..., Any], publication: Publication) -> tuple[Any, Parcel]:
    """Let Celery do everything but send; return its result object and the message."""
    capture = keeping.Capture()
    # A producer that somebody lends us (canvas does) is for sending.
    options = {**publication.options, "producer": capture}
    options.pop("publisher", None)
    result = send_task(publication.name, publication.args, publication.kwargs, task_id=publication.task_id, **options)
    return result, capture.parcel(publication)


def _refuse_without(outbox: Any, publication: Publication) -> None:
    """An outbox that was asked for by name must not be passed over in silence."""
    if outbox is None and publication.outbox not in (None, False):
        raise InvalidOption(
            f"outbox={publication.outbox!r} for {publication.name}: this project has no outbox. "
            "Set ORCHESTRATOR['OUTBOX'] to True, or leave the option away."
        )
