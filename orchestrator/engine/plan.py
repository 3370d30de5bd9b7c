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
FILLED = frozenset({"headers", "argsrepr", "kwargsrepr", "task_type", "result_cls", "countdown", "eta"})
#: Options that make a message a part of something, or send it over somebody's own connection.
ORDINARY = frozenset(
    {
        "add_to_parent",
        "chain",
        "chord",
        "compression",
        "connection",
        "declare",
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
#: Where Celery sends several events of tasks that travel together.
_MANY = "task.multi"
#: Of those options, the ones that ask for nothing where they are nought.
_NAUGHT = frozenset({"replaced_task_nesting", "retries"})


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
    #: The same for several events in one message.
    many: Template | None
    many_channel: str
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


def make(app: Any, line: Line, publication: Publication, *, inside: bool, timed: bool) -> Plan | None:
    """Have Celery build one message with marks, and cut it there."""
    options = {name: value for name, value in publication.options.items() if name not in FILLED}
    task_type = publication.options.get("task_type")
    made = probe.build(app, line.channel, publication.name, task_type, options, inside=inside, timed=timed)
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
    many, channels = dict(made.envelope), (_prefixed(channel, topics[0]), "")
    if made.event:
        properties = many["properties"]
        delivery = {**properties["delivery_info"], "routing_key": _MANY}
        many["properties"] = {**properties, "delivery_info": delivery}
        channels = channels[0], _prefixed(channel, channel._get_publish_topics(made.event_exchange, _MANY)[0])
    return Plan(
        queue=made.queue,
        routing_key=made.routing_key,
        ready=channel.keys.ready(made.routing_key, channel.priority(channel._get_message_priority(message))),
        message=Template(wire.text(message), probe.MARKS),
        event=Template(made.event, probe.MARKS) if made.event else None,
        envelope=Template(wire.text(made.envelope), probe.MARKS) if made.event else None,
        channel=channels[0],
        many=Template(wire.text(many), probe.MARKS) if made.event else None,
        many_channel=channels[1],
        dispatcher=app.amqp._event_dispatcher,
        ignored=options.get("ignore_result"),
    )


def _prefixed(channel: Any, topic: str) -> str:
    """Return a topic as kombu's own client would name it."""
    return f"{channel.global_keyprefix}{topic}"
