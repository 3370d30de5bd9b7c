"""The quick way to publish: a message that Celery built once, with what differs filled in.

For each task and set of options Celery itself builds one message, with marks where a
value will stand; its text, cut at the marks, is the plan that all further messages
follow. So whatever an option means, it means the same on both ways. Where anything
looks at messages on their way (a signal's receiver, somebody's own ``send_task``), where
routes are decided by code, or where the broker isn't behind our transport, there is no
plan, and the message goes the ordinary way.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from json import dumps as native_dumps
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from celery import Celery, signals
from celery._state import _task_stack
from celery.app import base as app_base
from celery.app import task as app_task
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.app.task import Task
from celery.backends.base import Backend
from celery.events.dispatcher import EventDispatcher
from celery.utils.saferepr import saferepr
from celery.utils.time import utcoffset
from kombu.exceptions import EncodeError
from kombu.serialization import dumps as serialized
from kombu.serialization import registry

from orchestrator.contracts.message import HEADER, Publication
from orchestrator.engine import probe
from orchestrator.engine.template import Template
from orchestrator.transport import line as lines
from orchestrator.transport import wire

#: What a publication may carry on top of its plan.
_FILLED = frozenset({"headers", "argsrepr", "kwargsrepr", "task_type", "result_cls"})
#: Options that make a message a part of something, or send it over somebody's own connection.
_ORDINARY = frozenset(
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
#: Plans kept; a project that makes up a new priority or queue for each message must not fill the memory.
_MOST_PLANS = 1000

_ANY_ORIGINAL = (
    (Celery, "send_task", app_base.__file__),
    (Task, "apply_async", app_task.__file__),
)


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


@dataclass(frozen=True, slots=True)
class Filled:
    """One message, ready to be sent."""

    plan: Plan
    task_id: str
    text: str
    event: tuple[str, str] | tuple[()]


class Quick:
    """The quick way of one app."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._plans: dict[Any, Plan | None] = {}
        self._state: tuple[Any, ...] = ()
        self._changes: dict[str, Any] = {}
        self._usable = False
        self._eager = False
        self._lines: lines.Lines | None = None

    # --- may we? --------------------------------------------------------------------

    def steady(self) -> bool:
        """Whether nothing looks at messages on their way, and settings are as they were when plans were made."""
        if (
            signals.before_task_publish.receivers
            or signals.after_task_publish.receivers
            or signals.task_sent.receivers
        ):
            return False
        app = self._app
        conf, amqp = app.conf, app.amqp
        state = (
            os.getpid(),
            conf,
            len(conf.maps),
            amqp,
            amqp.routes,
            Celery.send_task,
            Task.apply_async,
            registry._encoders.get("json"),
        )
        if state != self._state or conf.changes != self._changes:
            self._begin(state, dict(conf.changes))
        return self._usable

    def forget(self) -> None:
        """Make new plans: a setting changed."""
        self._state = ()

    def _begin(self, state: tuple[Any, ...], changes: dict[str, Any]) -> None:
        app, conf = self._app, self._app.conf
        self._plans.clear()
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        amqp = app.amqp
        self._usable = (
            all(_original(owner, name, file) for owner, name, file in _ANY_ORIGINAL)
            and type(amqp) is AMQP
            and not conf.task_always_eager
            and conf.task_protocol == 2
            and conf.task_serializer == "json"
            and not conf.task_compression
            and not conf.task_inherit_parent_priority
            and app.events.dispatcher_cls in ("celery.events.dispatcher:EventDispatcher", EventDispatcher)
            and all(isinstance(route, MapRoute) for route in amqp.routes)
            and not isinstance(conf.broker_write_url, list | tuple)
            and ";" not in str(conf.broker_write_url or "")
        )
        self._events = bool(conf.task_send_sent_event)
        self._levels = conf.task_repr_maxlevels
        self._state = state
        self._changes = changes
        if self._usable:
            limit = conf.broker_pool_limit
            self._lines = lines.Lines(app.connection_for_write, limit or None, conf.broker_pool_acquire_timeout or 2.0)

    # --- the message ------------------------------------------------------------------

    def fill(self, publication: Publication) -> Filled | None:
        """Return a publication's message, or None where it has to go the ordinary way."""
        plan = self.plan(publication)
        if plan is None:
            return None
        return self.filled(plan, publication)

    def plan(self, publication: Publication) -> Plan | None:
        """Return the plan for a publication, made if it is the first of its kind."""
        options = publication.options
        headers = options.get("headers")
        if headers is not None and len(headers) != (HEADER in headers):
            return None
        try:
            inside = _task_stack.top is not None and self._app.current_worker_task is not None
            kind = (
                publication.name,
                inside,
                "task_type" in options,
                tuple([item for item in options.items() if item[0] not in _FILLED]),
            )
            return self._plans[kind]
        except KeyError:
            pass
        except TypeError:  # something that cannot be compared
            return None
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        made = self._plans[kind] = self._made(publication, inside)
        return made

    def _made(self, publication: Publication, inside: bool) -> Plan | None:
        options = publication.options
        if any(options.get(name) is not None for name in _ORDINARY):
            return None
        serializer = options.get("serializer")
        if serializer not in (None, "json"):
            return None
        backend = getattr(publication.task, "backend", None) or self._app.backend
        if type(backend).on_task_call is not Backend.on_task_call:
            return None
        assert self._lines is not None
        try:
            with self._lines.line() as line:
                return _plan(self._app, line, publication, inside)
        except lines.Unfit:
            self._usable = False
            return None

    def filled(self, plan: Plan, publication: Publication) -> Filled:
        """Return the text of a publication's message.

        Raises:
            EncodeError: JSON cannot hold its arguments.
        """
        options, task_id = publication.options, publication.task_id
        args, kwargs = publication.args, publication.kwargs
        args_repr, kwargs_repr = options.get("argsrepr"), options.get("kwargsrepr")
        if args_repr is None:
            args_repr = saferepr(args, AMQP.argsrepr_maxsize, maxlevels=self._levels) if args else repr(args)
        if kwargs_repr is None:
            kwargs_repr = saferepr(kwargs, AMQP.kwargsrepr_maxsize, maxlevels=self._levels) if kwargs else repr(kwargs)
        name = quoted(task_id)
        parent = self._parent()
        root, parent_id = name, "null"
        if parent is not None:
            request = parent.request
            root, parent_id = quoted(request.root_id or request.id), quoted(request.id)
        values = {
            probe.BODY: quoted(body(args, kwargs)),
            probe.ID: name,
            probe.ROOT: root,
            probe.PARENT: parent_id,
            probe.ARGS: quoted(args_repr),
            probe.KWARGS: quoted(kwargs_repr),
            probe.HEADER: compact(publication.header),
            probe.REPLY: quoted(self._app.thread_oid),
            probe.TAG: f'"{wire.tag()}"',
        }
        event: tuple[str, str] | tuple[()] = ()
        if plan.event is not None and plan.envelope is not None:
            event = (plan.channel, self._event(plan, plan.event, plan.envelope, values))
        return Filled(plan, task_id, plan.message.fill(values), event)

    @staticmethod
    def _event(plan: Plan, event: Template, envelope: Template, values: dict[str, str]) -> str:
        values[probe.CLOCK] = str(plan.dispatcher.clock.forward())
        values[probe.OFFSET] = str(utcoffset())
        values[probe.TIME] = repr(time.time())
        text = event.fill(values).encode("ascii")
        return envelope.fill({probe.BODY: f'"{base64.b64encode(text).decode("ascii")}"', probe.TAG: values[probe.TAG]})

    # --- sending ------------------------------------------------------------------------

    def send(self, filled: Filled, publication: Publication) -> Any:
        """Send one message; return Celery's result object.

        Raises:
            Failed: the broker did not take it, as far as is known.
        """
        assert self._lines is not None
        plan, task_id = filled.plan, filled.task_id
        with self._lines.line() as line:
            if not line.was_sent(task_id):
                line.publish(plan.queue, plan.ready, task_id, filled.text, filled.event)
        return self.result(plan, publication)

    def result(self, plan: Plan, publication: Publication) -> Any:
        """Return what Celery returns for a message that was sent."""
        made = (publication.options.get("result_cls") or self._app.AsyncResult)(publication.task_id)
        made.ignored = plan.ignored
        parent = self._parent()
        if parent is not None:
            parent.add_trail(made)
        return made

    def _parent(self) -> Any:
        """Return the task that is running here."""
        return None if _task_stack.top is None else self._app.current_worker_task

    @property
    def lines(self) -> lines.Lines:
        """The connections on which messages are sent."""
        assert self._lines is not None
        return self._lines


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


def _plan(app: Any, line: lines.Line, publication: Publication, inside: bool) -> Plan | None:
    """Have Celery build one message with marks, and cut it there."""
    options = {name: value for name, value in publication.options.items() if name not in _FILLED}
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


def _original(owner: Any, name: str, file: Any) -> bool:
    """Whether a method is Celery's own, not a wrapper that somebody put around it."""
    found = vars(owner)[name]
    return getattr(getattr(found, "__code__", None), "co_filename", None) == file
