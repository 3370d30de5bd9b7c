"""Kept messages on their way: many in one call, where the broker is behind our transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from celery.events.event import get_exchange

from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.contracts.message import HEADER, HEADER_VERSION, Parcel
from orchestrator.engine import keeping
from orchestrator.transport.line import Failed, Line, Unfit
from orchestrator.transport.sender import Ready

#: Where several events of tasks go that travel together.
_MANY = "task.multi"


def post(app: Any, parcels: Sequence[tuple[Parcel, Mapping[str, Any]]]) -> None:
    """Send kept messages, each with its mark: those that go straight to a queue all at once, or none of them.

    Raises:
        BrokerUnavailable: the broker did not take them all, as far as is known.
        PayloadUnreadable: one cannot be sent.
    """
    straight = [item for item in parcels if not item[0].message.exchange and item[0].message.queue]
    if len(straight) > 1 and _together(app, straight):
        parcels = [item for item in parcels if item[0].message.exchange or not item[0].message.queue]
    for parcel, mark in parcels:
        keeping.send(app, parcel, mark)


def _together(app: Any, parcels: Sequence[tuple[Parcel, Mapping[str, Any]]]) -> bool:
    """Send them in one call; False where that cannot be done."""
    if not app.quick.steady():
        return False
    try:
        with app.quick.lines.line() as line:
            messages = [(app.amqp.queues[parcel.message.queue], _ready(line, parcel, mark)) for parcel, mark in parcels]
            line.publish_many(messages, _events(app, line, [parcel.event for parcel, _ in parcels if parcel.event]))
    except Unfit:
        return False
    except Failed as error:
        raise BrokerUnavailable(
            f"The broker did not take {len(parcels)} messages ({error}). "
            "Is it running, and is CELERY_BROKER_URL right?",
            maybe_sent=error.maybe_sent,
        ) from error
    return True


def _ready(line: Line, parcel: Parcel, mark: Mapping[str, Any]) -> Ready:
    message = parcel.message
    headers = dict(message.headers)
    headers[HEADER] = {**(headers.get(HEADER) or {"v": HEADER_VERSION}), "outbox": dict(mark)}
    return line.prepared(
        message.body,
        message.routing_key,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        headers=headers,
        properties=dict(message.properties),
    )


def _events(app: Any, line: Line, events: Sequence[Mapping[str, Any]]) -> tuple[str, str] | tuple[()]:
    if not events or app.conf.event_serializer != "json":
        return ()
    exchange = get_exchange(line.channel.connection.client, name=app.conf.event_exchange)
    host = {"hostname": events[0].get("hostname", "")}
    return line.told(exchange.name, _MANY, json.dumps(list(events)), host)
