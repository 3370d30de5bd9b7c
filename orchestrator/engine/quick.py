"""The quick way to publish: a message that Celery built once, with what differs filled in.

For each task and set of options Celery itself builds one message, with marks where a
value will stand; its text, cut at the marks, is the plan that all further messages
follow. So whatever an option means, it means the same on both ways. Where anything
looks at messages on their way (a signal's receiver, somebody's own ``send_task``), where
routes are decided by code, or where the broker isn't behind our transport, there is no
plan, and the message goes the ordinary way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from celery import Celery, signals
from celery._state import _task_stack
from celery.app import base as app_base
from celery.app import task as app_task
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute
from celery.app.task import Task
from celery.events.dispatcher import EventDispatcher
from celery.utils.time import add_seconds_to_datetime, maybe_make_aware
from kombu.serialization import registry

from orchestrator.contracts.message import HEADER, ONCE, Publication
from orchestrator.engine import plan as plans
from orchestrator.engine.filling import Filled, enveloped, fill
from orchestrator.engine.plan import Plan
from orchestrator.transport.line import Unfit
from orchestrator.transport.lines import Lines
from orchestrator.transport.sender import Ready

#: Seconds to wait for a connection where ``broker_pool_acquire_timeout`` says nothing.
PATIENCE = 1.0
#: Plans kept; a project that makes up a new priority or queue for each message must not fill the memory.
_MOST_PLANS = 1000

_ANY_ORIGINAL = (
    (Celery, "send_task", app_base.__file__),
    (Task, "apply_async", app_task.__file__),
)


class Quick:
    """The quick way of one app."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._plans: dict[Any, Plan | None] = {}
        self._state: tuple[Any, ...] = ()
        self._changes: dict[str, Any] = {}
        self._usable = False
        self._levels = 0
        self._lines: Lines | None = None

    # --- may we? --------------------------------------------------------------------

    def steady(self) -> bool:
        """Whether nothing looks at messages on their way, and settings are as they were when plans were made."""
        if signals.before_task_publish.receivers or signals.after_task_publish.receivers or signals.task_sent.receivers:
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
        self._levels = conf.task_repr_maxlevels
        self._state = state
        self._changes = changes

    # --- the message ------------------------------------------------------------------

    def fill(self, publication: Publication) -> Filled | None:
        """Return a publication's message, or None where it has to go the ordinary way."""
        plan = self.plan(publication)
        if plan is None:
            return None
        app = self._app
        return fill(
            plan,
            publication,
            parent=self._parent(),
            reply_to=app.thread_oid,
            levels=self._levels,
            eta=self._eta(publication.options),
        )

    def _eta(self, options: dict[str, Any]) -> str | None:
        """Return when a message is due, as Celery writes it."""
        countdown, eta = options.get("countdown"), options.get("eta")
        if countdown:
            app = self._app
            eta = maybe_make_aware(add_seconds_to_datetime(app.now(), countdown), tz=app.timezone)
        return eta if isinstance(eta, str) else (eta and eta.isoformat())

    def plan(self, publication: Publication) -> Plan | None:
        """Return the plan for a publication, made if it is the first of its kind."""
        options = publication.options
        headers = options.get("headers")
        if (headers is not None and len(headers) != (HEADER in headers)) or ONCE in publication.header:
            return None
        try:
            inside = _task_stack.top is not None and self._app.current_worker_task is not None
            kind = (
                publication.name,
                inside,
                "task_type" in options,
                timed := bool(options.get("countdown") or options.get("eta")),
                tuple([item for item in options.items() if item[0] not in plans.FILLED]),
            )
            return self._plans[kind]
        except KeyError:
            pass
        except TypeError:  # something that cannot be compared
            return None
        if len(self._plans) >= _MOST_PLANS:
            self._plans.clear()
        made = self._plans[kind] = self._made(publication, inside, timed)
        return made

    def _made(self, publication: Publication, inside: bool, timed: bool) -> Plan | None:
        if plans.ordinary(self._app, publication):
            return None
        try:
            with self.lines.line() as line:
                return plans.make(self._app, line, publication, inside=inside, timed=timed)
        except Unfit:
            self._usable = False
            return None

    # --- sending ------------------------------------------------------------------------

    def send(self, filled: Filled, publication: Publication) -> Any:
        """Send one message; return Celery's result object.

        Raises:
            Failed: the broker did not take it, as far as is known.
        """
        plan = filled.plan
        with self.lines.line() as line:
            if not line.was_sent(filled.task_id):
                line.publish(plan.queue, ready(filled), enveloped(filled))
        return self.result(plan, publication)

    def send_many(self, many: Sequence[Filled], event: Sequence[Any]) -> None:
        """Send all of these or none; what an earlier try sent, without an answer, is not sent again.

        Raises:
            Failed: the broker did not take them, as far as is known.
        """
        with self.lines.line() as line:
            left = [(filled.plan.queue, ready(filled)) for filled in many if not line.was_sent(filled.task_id)]
            if left:
                line.publish_many(left, event)

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
    def lines(self) -> Lines:
        """The connections on which messages are sent."""
        if self._lines is None:
            app, conf = self._app, self._app.conf
            patience = conf.broker_pool_acquire_timeout or PATIENCE
            self._lines = Lines(app.connection_for_write, conf.broker_pool_limit or None, patience)
        return self._lines


def ready(filled: Filled) -> Ready:
    """Return a message as a line takes it."""
    return Ready(filled.task_id, filled.plan.ready, filled.text, filled.name, filled.delay_ms)


def _original(owner: Any, name: str, file: Any) -> bool:
    """Whether a method is Celery's own, not a wrapper that somebody put around it."""
    found = vars(owner)[name]
    return bool(getattr(getattr(found, "__code__", None), "co_filename", None) == file)
