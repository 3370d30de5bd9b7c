"""Messages that are built now and sent later: captured whole, sent exactly as they were.

Celery builds the message itself (routes, headers, signals, the ``task-sent`` event);
only the last step, handing it to a producer, is taken over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery._state import _task_stack
from celery.events.event import get_exchange
from kombu.compression import compress
from kombu.entity import Exchange
from kombu.serialization import dumps

from orchestrator.contracts.errors import BrokerUnavailable, InvalidOption, PublishError
from orchestrator.contracts.message import HEADER, HEADER_VERSION, Parcel, Publication, WireMessage
from orchestrator.engine import redispatch, succession
from orchestrator.engine.filling import Filled
from orchestrator.transport.sender import came_through

#: What ``Producer.publish`` is told that is no property of the message.
_NOT_KEPT = frozenset({"retry", "retry_policy", "timeout", "confirm_timeout"})
#: Where Celery sends ``task-sent`` to.
_EVENT_KEY = "task.sent"


class _NoConnection:
    """Stands where Celery looks for errors of the library; there are none."""

    def _reraise_as_library_errors(self) -> AbstractContextManager[None]:
        return nullcontext()


class Capture:
    """A producer that keeps what it is given: the task's message, then its ``task-sent`` event."""

    connection = _NoConnection()

    def __init__(self) -> None:
        self._message: WireMessage | None = None
        self._event: Mapping[str, Any] | None = None

    def publish(
        self,
        body: Any,
        *,
        exchange: Any = "",
        routing_key: str | None = "",
        serializer: str | None = None,
        compression: str | None = None,
        headers: Mapping[str, Any] | None = None,
        declare: Any = None,
        **properties: Any,
    ) -> None:
        """Keep one message.

        Raises:
            InvalidOption: it is not JSON, or an option of it is not.
            EncodeError: JSON cannot hold its arguments.
        """
        if self._message is not None:
            self._event = body
            return
        content_type, encoding, encoded = dumps(body, serializer=serializer)
        if content_type != "application/json":
            raise InvalidOption(
                f"serializer={serializer!r}: the outbox holds JSON only. Leave the serializer away, or publish with "
                "outbox=False, which does not wait for the transaction."
            )
        raw = encoded.encode("utf-8") if isinstance(encoded, str) else encoded
        headers = dict(headers or {})
        if compression:
            raw, headers["compression"] = compress(raw, compression)
        self._message = WireMessage(
            body=raw,
            content_type=content_type,
            content_encoding=encoding,
            headers=headers,
            properties={key: value for key, value in properties.items() if key not in _NOT_KEPT and value is not None},
            queue=declare[0].name if declare else "",
            exchange=exchange.name if isinstance(exchange, Exchange) else exchange or "",
            routing_key=routing_key or "",
        )

    def parcel(self, publication: Publication) -> Parcel:
        """Return what was kept.

        Raises:
            InvalidOption: an option of the message cannot be kept.
            PublishError: there is no message.
        """
        message = self._message
        if message is None:
            raise PublishError(f"Celery built no message for {publication.name}.")
        for name, value in {**message.properties, **message.headers}.items():
            try:
                json.dumps(value)
            except (TypeError, ValueError) as error:
                raise InvalidOption(
                    f"Option {name!r} of {publication.name} is a {type(value).__name__}, which the outbox cannot keep: "
                    "give one that JSON can hold, or publish with outbox=False."
                ) from error
        return Parcel(publication.name, publication.task_id, message, self._event, publication.ordering_key)


def parcel_of(filled: Filled, publication: Publication) -> Parcel:
    """Return the parcel of a message that was made the quick way."""
    plan, message = filled.plan, json.loads(filled.text)
    kept = WireMessage(
        body=message["body"].encode("utf-8"),
        content_type=message["content-type"],
        content_encoding=message["content-encoding"],
        headers=message["headers"],
        properties={name: value for name, value in message["properties"].items() if not name.startswith("delivery_")},
        queue=plan.queue.name,
        exchange="",
        routing_key=plan.routing_key,
    )
    event = json.loads(filled.event) if filled.event else None
    return Parcel(publication.name, filled.task_id, kept, event, publication.ordering_key)


def of_the_worker(publication: Publication) -> bool:
    """Whether a worker publishes this for itself: a retry, a deferral, a replacement, a successor, a chord's body.

    Such a message belongs to how the task ended, not to what its body did: a transaction
    that is still open, and may be rolled back by that very end, must not hold it.
    """
    if succession.caused():
        return True
    current = _task_stack.top
    if current is None or current.request.is_eager:
        return False
    return publication.republication or not getattr(current.request, "in_body", False)


def broker_refused(app: Any, error: Exception) -> bool:
    """Whether an error says that the broker did not take a message."""
    refused, broken = redispatch.broker_errors(app)
    return isinstance(error, (*refused, *broken))


def send(app: Any, parcel: Parcel, mark: Mapping[str, Any]) -> bool:
    """Send a kept message, with ``mark`` in our header under ``outbox``.

    Returns:
        False if it was not sent, because a publish that got no answer turns out to have come through.

    Raises:
        BrokerUnavailable: the broker did not take it, as far as is known.
    """
    message = parcel.message
    headers = dict(message.headers)
    headers[HEADER] = {**(headers.get(HEADER) or {"v": HEADER_VERSION}), "outbox": dict(mark)}
    sending = False
    try:
        with app.producer_or_acquire() as producer:
            redispatch.reach(producer)
            raw = getattr(producer.channel, "raw", None) if parcel.doubt else None
            if raw is not None and came_through(raw, parcel.doubt):
                return False
            sending = True
            producer.publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                content_type=message.content_type,
                content_encoding=message.content_encoding,
                headers=headers,
                declare=_declared(app, message.queue),
                retry=False,
                **message.properties,
            )
            if parcel.event is not None:
                _announce(app, producer, parcel.event)
    except Exception as error:
        refused, broken = redispatch.broker_errors(app)
        if not isinstance(error, (*refused, *broken)):
            raise
        raise BrokerUnavailable(
            f"The broker did not take the message ({type(error).__name__}: {error}). "
            "Is it running, and is CELERY_BROKER_URL right?",
            maybe_sent=sending and not isinstance(error, refused),
        ) from error
    return True


def _declared(app: Any, queue: str) -> list[Any]:
    """Return the queue to be declared first, as Celery does: AMQP drops what no queue takes."""
    return [app.amqp.queues[queue]] if queue else []


def _announce(app: Any, producer: Any, event: Mapping[str, Any]) -> None:
    exchange = get_exchange(producer.connection, name=app.conf.event_exchange)
    producer.publish(
        event,
        exchange=exchange.name,
        routing_key=_EVENT_KEY,
        declare=[exchange],
        serializer=app.conf.event_serializer,
        headers={"hostname": event.get("hostname", "")},
        delivery_mode=1,
        retry=False,
    )
