"""Publishing again: retry history, deferral, redrive."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from celery.app.task import X_DEATH_HEADERS
from celery.exceptions import Ignore, Reject, Retry
from kombu.exceptions import OperationalError
from kombu.serialization import dumps, loads

from orchestrator.contracts.errors import BrokerUnavailable, PayloadIncompatible, PayloadUnreadable, TaskMissing
from orchestrator.contracts.message import HEADER, HEADER_VERSION, KEPT_BY_REDRIVE, Attempt, WireMessage
from orchestrator.engine import times

#: Attempts kept in a message's history; older ones are counted, not dropped in silence.
HISTORY_LIMIT = 20
#: Content types that a redrive may decode.
ACCEPT = ("application/json",)
#: Field of a request that carries the attempt's id from the process that settles to the one that runs.
ATTEMPT = "orchestrator_attempt"
#: The same for whether the message can wait in the line of a limit.
PARKS = "orchestrator_parks"
#: Headers that stay behind: the id of this attempt, and the way that RabbitMQ notes of a delayed message. With it, the
#: next delay over the same queues is taken for a circle, and the message dropped without a word.
_LEFT_BEHIND = frozenset({ATTEMPT, PARKS, *X_DEATH_HEADERS})


class Deferred(Retry):  # type: ignore[misc]  # Celery is untyped
    """Tells the consumer process that a republication was a deferral, not a retry."""


class Parked(Ignore):  # type: ignore[misc]  # Celery is untyped
    """Tells the consumer process where a message has to wait: a :class:`~orchestrator.contracts.limiting.Waiting`."""


class OurTask:
    """Marks task classes that run through the policies."""


def marker() -> type:
    """Return the class that all our task classes derive from."""
    return OurTask


def _carried(request: Any) -> dict[str, Any]:
    """Return the headers that a republication keeps."""
    return {name: value for name, value in (request.headers or {}).items() if name not in _LEFT_BEHIND}


def with_history(request: Any, error: BaseException | None) -> dict[str, Any]:
    """Return the request's headers with one more entry in the attempt history."""
    headers = _carried(request)
    header = dict(request.get(HEADER) or headers.get(HEADER) or {"v": HEADER_VERSION})
    history = list(header.get("history", ()))
    history.append(
        {
            "n": (request.retries or 0) + 1,
            "at": round(time.time(), 3),
            "worker": request.hostname or "",
            "error": f"{type(error).__name__}: {error}"[:500] if error is not None else "",
        }
    )
    if len(history) > HISTORY_LIMIT:
        header["history_dropped"] = header.get("history_dropped", 0) + len(history) - HISTORY_LIMIT
        history = history[-HISTORY_LIMIT:]
    header["history"] = history
    headers[HEADER] = header
    return headers


def defer(task: Any, request: Any, seconds: float) -> Deferred:
    """Publish the running task again, later, under its id and without counting a retry.

    Returns:
        the exception to raise.
    Raises:
        Reject: publishing failed; the message goes back to its queue instead.
    """
    headers = _carried(request)
    header = dict(request.get(HEADER) or headers.get(HEADER) or {"v": HEADER_VERSION})
    header["deferrals"] = header.get("deferrals", 0) + 1
    headers[HEADER] = header
    pause = times.outside(task.app, seconds)
    try:
        task.signature_from_request(request, countdown=pause, retries=request.retries, headers=headers).apply_async()
    except Exception as error:
        raise Reject(error, requeue=True) from error
    return Deferred(f"deferred for {pause:g} s", when=pause)


def adopt(attempt: Attempt) -> None:
    """Let the running request, and what is published again from it, have an attempt's newer arguments."""
    request, app = attempt.task.request, attempt.task.app
    request.args, request.kwargs = attempt.args, attempt.kwargs
    request.argsrepr, request.kwargsrepr = app.reprs(attempt.task, attempt.args, attempt.kwargs)


def with_arguments(app: Any, message: WireMessage, args: Any, kwargs: Any) -> WireMessage:
    """Return a message with other arguments.

    Raises:
        PayloadUnreadable: it cannot be decoded.
    """
    _, _, embed = decode(message)
    headers = dict(message.headers)
    headers["argsrepr"], headers["kwargsrepr"] = app.reprs(app.tasks.get(headers.get("task")), args, kwargs)
    body = dumps((args, kwargs, embed), serializer="json")[2].encode("utf-8")
    return replace(message, body=body, content_type="application/json", content_encoding="utf-8", headers=headers)


def decode(message: WireMessage) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Return ``(args, kwargs, embed)``.

    Raises:
        PayloadUnreadable: the body is no JSON task body.
    """
    try:
        content = loads(message.body, message.content_type, message.content_encoding, accept=ACCEPT)
        if "task" in message.headers:
            args, kwargs, embed = content
        else:
            args, kwargs = content.get("args", ()), content.get("kwargs", {})
            embed = {key: content.get(key) for key in ("callbacks", "errbacks", "chord")}
        return list(args), dict(kwargs), dict(embed or {})
    except Exception as error:
        raise PayloadUnreadable(
            f"The message cannot be decoded ({type(error).__name__}), so its arguments cannot be read or edited; "
            "it can only be redriven byte for byte or discarded."
        ) from error


def check_arguments(app: Any, task_name: str, args: list[Any], kwargs: Mapping[str, Any]) -> None:
    """Bind arguments to a registered task's signature; see ``EngineApp.check_arguments``."""
    task = app.tasks.get(task_name)
    if task is None:
        raise TaskMissing(
            f"No task {task_name!r} is registered in this process. Was it renamed or removed? "
            "Register it again under this name (name=...), or discard the letter."
        )
    try:
        inspect.signature(task.run).bind(*args, **kwargs)
    except TypeError as error:
        raise PayloadIncompatible(
            f"The arguments do not fit {task_name}{inspect.signature(task.run)}: {error}. "
            "Redrive with edited arguments."
        ) from error


def redrive(
    app: Any,
    message: WireMessage,
    *,
    task_id: str,
    letter_id: str,
    redrive_of: str,
    nonce: str,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
) -> None:
    """Publish a buried message again; see ``EngineApp.redrive``."""
    body, headers = _fresh(app, message, task_id, args, kwargs)
    buried = message.headers.get(HEADER)
    kept = buried if isinstance(buried, Mapping) else {}
    headers[HEADER] = {
        **{name: kept[name] for name in KEPT_BY_REDRIVE if name in kept},
        "v": HEADER_VERSION,
        "at": round(time.time(), 3),
        "redrive_of": redrive_of,
        "redrive": {"letter": letter_id, "nonce": nonce},
    }
    properties = message.properties
    sending = False
    refused, broken = broker_errors(app)
    try:
        with app.producer_or_acquire() as producer:
            reach(producer)
            sending = True
            producer.publish(
                body,
                exchange=message.exchange,
                routing_key=message.routing_key or message.queue,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=headers,
                correlation_id=task_id,
                reply_to=properties.get("reply_to") or "",
                priority=properties.get("priority"),
                delivery_mode=2,
                retry=False,
            )
    except (*refused, *broken) as error:
        raise BrokerUnavailable(
            f"The broker did not take the message ({type(error).__name__}: {error}). "
            "Is it running, and is CELERY_BROKER_URL right?",
            maybe_sent=sending and not isinstance(error, refused),
        ) from error


def broker_errors(app: Any) -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return what a broker raises that answered and refused, and what one raises that cannot be reached."""
    connection = app.connection_for_write()
    return tuple(connection.channel_errors), (OperationalError, OSError, *connection.connection_errors)


def reach(producer: Any) -> None:
    """Make sure that the broker answers, so that a failure up to here certainly sent nothing."""
    acquire = getattr(producer.channel, "conn_or_acquire", None)
    if acquire is not None:
        # A pooled connection of the Redis transport notices a dead server only when it is used. Not by
        # ``channel.client``: after a question to workers, an answer that nobody awaits may still come in there.
        with acquire() as client:
            client.ping()


def _fresh(
    app: Any, message: WireMessage, task_id: str, args: list[Any] | None, kwargs: dict[str, Any] | None
) -> tuple[bytes | str, dict[str, Any]]:
    headers = {key: value for key, value in message.headers.items() if not key.startswith("x-")}
    if "task" not in headers:
        return _fresh_v1(message, task_id, args, kwargs), headers
    old_id = headers.get("id")
    headers.update(id=task_id, retries=0, expires=None, eta=None)
    if headers.get("root_id") in (None, old_id):
        headers["root_id"] = task_id
    if args is None and kwargs is None:
        return message.body, headers
    old_args, old_kwargs, embed = decode(message)
    new_args = old_args if args is None else args
    new_kwargs = old_kwargs if kwargs is None else kwargs
    headers["argsrepr"], headers["kwargsrepr"] = app.reprs(app.tasks.get(headers["task"]), new_args, new_kwargs)
    return dumps((new_args, new_kwargs, embed), serializer="json")[2], headers


def _fresh_v1(message: WireMessage, task_id: str, args: list[Any] | None, kwargs: dict[str, Any] | None) -> bytes | str:
    """Protocol 1 keeps everything in the body."""
    try:
        content = dict(loads(message.body, message.content_type, message.content_encoding, accept=ACCEPT))
        content["task"]
    except Exception as error:
        raise PayloadUnreadable("The message names no task that could be run; it can only be discarded.") from error
    content.update(id=task_id, retries=0, expires=None, eta=None)
    if args is not None:
        content["args"] = args
    if kwargs is not None:
        content["kwargs"] = kwargs
    body: bytes | str = dumps(content, serializer="json")[2]
    return body
