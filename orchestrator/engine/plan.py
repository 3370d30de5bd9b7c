"""How one kind of message is made: Celery builds it once, with marks; its text is cut there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery.backends.base import Backend

from orchestrator.contracts.message import Publication
from orchestrator.engine import probe
from orchestrator.engine.template import Template
from orchestrator.transport import wire
from orchestrator.transport.line import Line

#: What a publication may carry on top of its plan.
FILLED = frozenset({"headers", "argsrepr", "kwargsrepr", "task_type", "result_cls"})
#: Options that make a message a part of something, or send it over somebody's own connection.
ORDINARY = frozenset(
    {
        "add_to_parent",
        "chain",
        "chord",
        "compression",
        "connection",
        "countdown",
        "declare",
        "eta",
        "event_dispatcher",
        "exchange",
        "exchange_type",
        "expires",
        "group_id",
        "group_index",
        "link",
        "link_error",
        "confirm_timeout",
        "now",
        "parent_id",
        "producer",
        "publisher",
        "replaced_task_nesting",
        "reply_to",
        "retries",
        "retry",
        "retry_policy",
        "root_id",
        "route_name",
        "router",
        "routing_key",
        "shadow",
        "stamped_headers",
        "timeout",
        "timezone",
    }
)
#: Of those, the ones that ask for nothing where they are nought or empty.
_NAUGHT = frozenset({"chain", "chord", "countdown", "link", "link_error", "replaced_task_nesting", "retries"})


@dataclass(frozen=True, slots=True)
class Plan:
    """How one kind of message is made and where it goes."""

    queue: Any
    routing_key: str
    ready: str
    message: Template
    #: The event that tells of it, or None.
    event: Template | None
    #: The message around that event, and where it goes.
    envelope: Template | None
    channel: str
    dispatcher: Any
    ignored: Any


def ordinary(app: Any, publication: Publication) -> bool:
    """Whether something about a publication asks for Celery's own way."""
    options = publication.options
    if any(options.get(name) is not None and (options[name] or name not in _NAUGHT) for name in ORDINARY):
        return True
    if options.get("serializer") not in (None, "json"):
        return True
    backend = getattr(publication.task, "backend", None) or app.backend
    return type(backend).on_task_call is not Backend.on_task_call


def make(app: Any, line: Line, publication: Publication, inside: bool) -> Plan | None:
    """Have Celery build one message with marks, and cut it there."""
    options = {name: value for name, value in publication.options.items() if name not in FILLED}
    task_type = publication.options.get("task_type")
    made = probe.build(app, line.channel, publication.name, task_type, options, inside=inside)
    if made.exchange or made.queue is None:
        return None
    message, channel = made.message, line.channel
    if made.queue.name in channel._expires or made.queue.expires or made.queue.name != made.routing_key:
        return None
    line.declare(made.queue)
    if made.queue.name in channel._expires:
        return None
    topics = channel._get_publish_topics(made.event_exchange, made.event_key) if made.event else ("",)
    if len(topics) != 1:
        return None
    return Plan(
        queue=made.queue,
        routing_key=made.routing_key,
        ready=channel.keys.ready(made.routing_key, channel.priority(channel._get_message_priority(message))),
        message=Template(wire.text(message), probe.MARKS),
        event=Template(made.event, probe.MARKS) if made.event else None,
        envelope=Template(wire.text(made.envelope), probe.MARKS) if made.event else None,
        channel=_prefixed(channel, topics[0]),
        dispatcher=app.amqp._event_dispatcher,
        ignored=options.get("ignore_result"),
    )


def _prefixed(channel: Any, topic: str) -> str:
    """Return a topic as kombu's own client would name it."""
    return f"{channel.global_keyprefix}{topic}"
