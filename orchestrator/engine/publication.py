"""From ``send_task`` arguments to a publication and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery._state import _task_stack
from celery.utils import uuid

from orchestrator.contracts.message import HEADER, HEADER_VERSION, Publication

#: Positional parameters of ``Celery.send_task`` after ``name, args, kwargs``.
POSITIONAL = ("countdown", "eta", "task_id", "producer", "connection", "router", "result_cls", "expires")


def describe(
    app: Any, name: str, args: Any, kwargs: Any, rest: tuple[Any, ...], options: dict[str, Any]
) -> Publication:
    """Build the publication for one ``send_task`` call.

    A publish is *not* new if it carries retries or the id of the task that is
    running here: a retry, a deferral, or the successor of ``Task.replace()``.
    """
    if rest:
        options.update(zip(POSITIONAL, rest, strict=False))
    task_id = options.pop("task_id", None) or uuid()
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
    )


def sender(send_task: Callable[..., Any]) -> Callable[[Publication], Any]:
    """Return the innermost step of the publish chain: Celery's own ``send_task``."""

    def send(publication: Publication) -> Any:
        options = publication.options
        headers = options.pop("headers", None)
        options["headers"] = {**headers, HEADER: publication.header} if headers else {HEADER: publication.header}
        return send_task(publication.name, publication.args, publication.kwargs, task_id=publication.task_id, **options)

    return send
