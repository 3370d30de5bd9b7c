"""What differs from message to message, as it stands in its text."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import dumps as native_dumps
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from celery.app.amqp import AMQP
from celery.utils.saferepr import saferepr
from celery.utils.time import utcoffset
from kombu.exceptions import EncodeError
from kombu.serialization import dumps as serialized

from orchestrator.contracts.message import Publication
from orchestrator.engine import probe
from orchestrator.engine.plan import Plan
from orchestrator.engine.template import Template
from orchestrator.transport import delayed, wire

_NUMBERS = frozenset({int, float, bool, type(None)})
#: Texts that Celery shows just as Python does.
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9 .,:;@/+_-]{0,60}").fullmatch


@dataclass(frozen=True, slots=True)
class Filled:
    """One message, ready to be sent."""

    plan: Plan
    task_id: str
    text: str
    #: Body of the event that tells of it, or nothing.
    event: str
    #: What it is called while it waits for its time, and for how long; 0 for a message that is ready.
    name: str
    delay_ms: int


def fill(plan: Plan, publication: Publication, *, parent: Any, reply_to: str, levels: int, eta: str | None) -> Filled:
    """Return the text of a publication's message.

    Args:
        parent: the task that is running here, or None.
        levels: how deep arguments are shown (``task_repr_maxlevels``).
        eta: when it is due, in ISO 8601, or None.

    Raises:
        EncodeError: JSON cannot hold its arguments.
    """
    options, task_id = publication.options, publication.task_id
    args, kwargs = publication.args, publication.kwargs
    name = quoted(task_id)
    root, parent_id = name, "null"
    if parent is not None:
        request = parent.request
        root, parent_id = quoted(request.root_id or request.id), quoted(request.id)
    tag, left = wire.tag(), 0.0
    values = {
        probe.BODY: quoted(body(args, kwargs)),
        probe.ID: name,
        probe.ROOT: root,
        probe.PARENT: parent_id,
        probe.ARGS: quoted(_shown(options.get("argsrepr"), args, AMQP.argsrepr_maxsize, levels)),
        probe.KWARGS: quoted(_shown(options.get("kwargsrepr"), kwargs, AMQP.kwargsrepr_maxsize, levels)),
        probe.HEADER: compact(publication.header),
        probe.REPLY: quoted(reply_to),
        probe.TAG: f'"{tag}"',
    }
    if eta is not None:
        values[probe.ETA] = quoted(eta)
        left = delayed.seconds_left({"eta": eta}, time.time())
    event = ""
    if plan.event is not None:
        values[probe.CLOCK] = str(plan.dispatcher.clock.forward())
        values[probe.OFFSET] = str(utcoffset())
        values[probe.TIME] = repr(time.time())
        event = plan.event.fill(values)
    waits = left > delayed.THRESHOLD
    name = f"{task_id}:{tag}" if waits else ""
    return Filled(plan, task_id, plan.message.fill(values), event, name, int(left * 1000) if waits else 0)


def enveloped(filled: Filled) -> tuple[str, str] | tuple[()]:
    """Return channel and text of what those who listen are told of one message; nothing if nobody is told."""
    plan = filled.plan
    return _told(plan.channel, plan.envelope, filled.event) if plan.envelope and filled.event else ()


def enveloped_together(many: Sequence[Filled]) -> tuple[str, str] | tuple[()]:
    """Return the same for several messages at once."""
    told = [filled for filled in many if filled.event]
    if not told or told[0].plan.many is None:
        return ()
    plan, events = told[0].plan, ", ".join(filled.event for filled in told)
    return _told(plan.many_channel, plan.many, f"[{events}]")


def _told(channel: str, envelope: Template | None, text: str) -> tuple[str, str] | tuple[()]:
    if envelope is None:
        return ()
    encoded = base64.b64encode(text.encode("ascii")).decode("ascii")
    return channel, envelope.fill({probe.BODY: f'"{encoded}"', probe.TAG: f'"{wire.tag()}"'})


def _shown(given: str | None, value: Any, size: int, levels: int) -> str:
    """Return the text of arguments that logs and events show, as Celery makes it."""
    if given is not None:
        return given
    if not value:
        return repr(value)
    if len(value) < 10 and (
        (type(value) is tuple and all(map(_simple, value)))
        or (type(value) is dict and all(map(_simple, value)) and all(map(_simple, value.values())))
    ):
        return repr(value)
    return str(saferepr(value, size, maxlevels=levels))


def _simple(item: Any) -> bool:
    """Whether Celery shows a value just as Python does."""
    kind = type(item)
    return kind in _NUMBERS or (kind is str and _PLAIN_TEXT(item) is not None)


def body(args: Any, kwargs: Any) -> str:
    """Return the body of a message after which nothing comes, as kombu writes it.

    Raises:
        EncodeError: JSON cannot hold the arguments.
    """
    if not args and not kwargs:
        return "[[], {}, {}]"
    try:
        # What JSON knows by itself needs none of kombu's additions.
        return native_dumps((args, kwargs, {}))
    except (TypeError, ValueError):
        text = serialized((args, kwargs, {}), serializer="json")[2]
        return text if isinstance(text, str) else text.decode("utf-8")


def compact(header: Mapping[str, Any]) -> str:
    """Return our header as it stands in a message."""
    at = header.get("at")
    if len(header) == 2 and type(at) is float and header.get("v") == 1:
        return f'{{"v":1,"at":{at!r}}}'
    try:
        return native_dumps(header, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise EncodeError(str(error)) from error
