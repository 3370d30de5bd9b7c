"""Building a letter out of a message as the consumer holds it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from orchestrator.contracts.message import HEADER, PUBLISHED_AS, Attempt, Letter, WireMessage
from orchestrator.contracts.outcome import Outcome, Reason
from orchestrator.engine import redispatch

#: Properties that describe one delivery, not the message.
_DELIVERY_PROPERTIES = frozenset({"delivery_info", "delivery_tag", "body_encoding", "delivery_mode"})
#: Characters of an error's text and traceback that are kept; both ends tell most.
TEXT_LIMIT = 64_000


def wire_message(message: Any) -> WireMessage:
    """Return the exact content of a kombu message."""
    delivery = message.delivery_info or {}
    known = message.properties or {}
    properties = {k: v for k, v in known.items() if k not in _DELIVERY_PROPERTIES}
    if isinstance(tag := known.get("delivery_tag"), str):
        # A transport that does not give each delivery a tag of its own.
        properties.setdefault(PUBLISHED_AS, tag)
    exchange = delivery.get("exchange") or ""
    routing_key = delivery.get("routing_key") or ""
    headers = dict(message.headers or {})
    if not message.errors:
        # kombu has decompressed the body already; errors says that it could not.
        headers.pop("compression", None)
    body = message.body
    return WireMessage(
        body=body.encode("utf-8", "surrogateescape") if isinstance(body, str) else bytes(body or b""),
        content_type=message.content_type or "",
        content_encoding=message.content_encoding or "",
        headers=headers,
        properties=properties,
        queue=routing_key,
        exchange=exchange,
        routing_key=routing_key,
    )


def build(
    app: Any,
    message: Any,
    outcome: Outcome,
    *,
    attempt_id: str,
    worker: str,
    task: Any,
    arguments: Any,
    facts: Mapping[str, Any] | None = None,
) -> Letter:
    """Build the letter of a message.

    Args:
        app: the Celery app; its ``reprs`` and ``secrets`` redact.
        task: the registered task, or None.
        arguments: ``(args, kwargs)`` if they could be decoded, else None.
        facts: what Celery read out of the message, where that is not in its headers (protocol 1).
    """
    wire = wire_message(message)
    headers = wire.headers if facts is None else facts
    header: Mapping[str, Any] = _mapping(headers.get(HEADER))
    args_repr = kwargs_repr = ""
    secrets: list[str] = []
    if arguments is not None:
        args_repr, kwargs_repr = app.reprs(task, *arguments)
        secrets = app.secrets(task, *arguments)
    history = [
        {**entry, "error": app.cover(str(entry.get("error", "")), secrets)}
        for entry in header.get("history", ())
        if isinstance(entry, Mapping)
    ]
    published_at = header.get("at")
    return Letter(
        attempt_id=attempt_id,
        verdict=outcome.verdict,
        reason=outcome.reason or Reason.FAILED,
        task=str(headers.get("task") or ""),
        task_id=str(headers.get("id") or wire.properties.get("correlation_id") or ""),
        message=wire,
        queue=wire.queue,
        worker=worker,
        args_repr=args_repr,
        kwargs_repr=kwargs_repr,
        error_type=outcome.error_type,
        error_message=_bounded(app.cover(outcome.error_message, secrets)),
        traceback=_bounded(app.cover(outcome.traceback, secrets)),
        retries=int(headers.get("retries") or 0),
        root_id=str(headers.get("root_id") or ""),
        parent_id=str(headers.get("parent_id") or ""),
        group_id=str(headers.get("group") or ""),
        redrive_of=str(header.get("redrive_of") or ""),
        history=history,
        published_at=float(published_at) if isinstance(published_at, int | float) else None,
        died_at=round(time.time(), 3),
    )


def adopted(app: Any, attempt: Attempt, letter: Letter) -> Letter:
    """Return the letter of an attempt with the arguments that it really ran with."""
    if attempt.newer is None:
        return letter
    args, kwargs = attempt.newer
    message = redispatch.with_arguments(app, letter.message, args, kwargs)
    args_repr, kwargs_repr = app.reprs(attempt.task, args, kwargs)
    return replace(letter, message=message, args_repr=args_repr, kwargs_repr=kwargs_repr)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _bounded(text: str) -> str:
    if len(text) <= TEXT_LIMIT:
        return text
    half = TEXT_LIMIT // 2
    return f"{text[:half]}\n… {len(text) - TEXT_LIMIT} characters left out …\n{text[-half:]}"
