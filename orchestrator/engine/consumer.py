"""Messages that never become a request: unknown, invalid, disallowed, undecodable."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from celery import signals
from celery.app import trace
from celery.exceptions import InvalidTaskError, NotRegistered
from celery.utils import uuid
from celery.utils.objects import Bunch
from celery.utils.saferepr import saferepr
from celery.worker.consumer import Consumer
from celery.worker.request import Request as StockRequest
from kombu.exceptions import ContentDisallowed

from orchestrator.contracts.errors import ConfigurationError
from orchestrator.contracts.message import HEADER, Attempt, Letter
from orchestrator.contracts.outcome import Outcome, Reason, Verdict
from orchestrator.engine import (
    holding,
    inspection,  # noqa: F401  (replaces two answers of Celery's)
    letters,
    reconnect,
    reporting,
    revocation,
)
from orchestrator.engine.request import OrchestratedRequest
from orchestrator.engine.settlement import settle

logger = logging.getLogger("orchestrator.engine")

#: Seconds for which task events are gathered. Celery sends those of each turn of its loop, which costs more than the
#: tasks themselves where they are short.
GATHER_EVENTS = 0.02
#: Celery's line quotes the return value, which may be anybody's data.
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss"
#: Return values that Celery shows just as Python does.
_PLAIN = frozenset({bool, float, type(None)})


class OrchestratedConsumer(Consumer):  # type: ignore[misc]  # Celery's Consumer is untyped
    """Buries what cannot become a task before it leaves the broker, and logs no bodies."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        refuse_limits_nobody_keeps(self.app, self.pool)
        # What is loaded by now stays for good. Out of the collector's sight it costs no time at every full
        # collection (measured: 25 µs a task), and pool processes, forked next, go on sharing its memory.
        gc.collect()
        gc.freeze()
        trace.LOG_SUCCESS, trace.saferepr = LOG_SUCCESS, shown
        if self.pool is not None:
            reporting.route(self.app, self.pool)
            # The pool, made but not started, would fall back to the settings' limits where a request has none.
            self.pool.options.update(timeout=None, soft_timeout=None)
        revocation.refuse_what_was_called_off()
        self.timer.call_repeatedly(holding.EVERY, holding.retry)
        self._gathering = False

    def on_send_event_buffered(self) -> None:
        """Send what gathers, soon; only asked where there is an event loop."""
        if not self._gathering:
            self._gathering = True
            self.timer.call_after(GATHER_EVENTS, self._send_gathered)

    def _send_gathered(self) -> None:
        self._gathering = False
        self._flush_events()

    def shutdown(self) -> None:
        """Send the last events, then close."""
        with suppress(*self.connection_errors):
            self._flush_events()
        super().shutdown()

    def update_strategies(self) -> None:
        """Give every task our request, whatever base class it has."""
        for task in self.app.tasks.values():
            if task.Request in ("celery.worker.request:Request", StockRequest):
                type(task).Request = OrchestratedRequest
        with _without_limits(self.app.tasks.values()):
            super().update_strategies()

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Lose the connection, not what runs."""
        with reconnect.keeping(self.app):
            super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Forget what does not run."""
        with reconnect.kept(self.pool):
            super().on_close()

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Refuse bodies of the wrong shape first: Celery drops some of them and dies of others."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            problem = malformed(message)
            return handle(message) if problem is None else self.on_invalid_task(None, message, problem)

        return on_task_received

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """A message that is no task message."""
        self._refuse(message, Reason.INVALID_MESSAGE, ValueError("The message is no Celery task message."))

    def on_unknown_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task name that this worker does not know."""
        name = message.headers.get("task") or (body or {}).get("task")
        task_id = message.headers.get("id") or (body or {}).get("id")
        error = NotRegistered(name)

        def report() -> None:
            request = Bunch(
                name=name,
                task=name,
                chord=None,
                root_id=message.headers.get("root_id"),
                correlation_id=message.properties.get("correlation_id"),
                reply_to=message.properties.get("reply_to"),
                errbacks=None,
            )
            try:
                self.app.backend.mark_as_failure(task_id, error, request=request)
            except Exception as refused:  # an id that no database takes must not end the worker; the letter is safe
                logger.error("Message %s[%s] is not among the results: %s", name, task_id, type(refused).__name__)
            if self.event_dispatcher:
                self.event_dispatcher.send("task-failed", uuid=task_id, exception=f"NotRegistered({name!r})")
            signals.task_unknown.send(sender=self, message=message, exc=exc, name=name, id=task_id)

        self._refuse(message, Reason.UNKNOWN_TASK, error, report)

    def on_invalid_task(self, body: Any, message: Any, exc: BaseException) -> None:
        """A task message that cannot work, or whose content type is not allowed."""
        reason = Reason.CONTENT_TYPE if isinstance(exc, ContentDisallowed) else Reason.INVALID_MESSAGE
        self._refuse(message, reason, exc, lambda: signals.task_rejected.send(sender=self, message=message, exc=exc))

    def on_decode_error(self, message: Any, exc: BaseException) -> None:
        """A body that cannot be decoded."""
        reason = Reason.CONTENT_TYPE if isinstance(exc, ContentDisallowed) else Reason.UNDECODABLE
        self._refuse(message, reason, exc)

    def _refuse(
        self, message: Any, reason: Reason, error: BaseException, report: Callable[[], object] = lambda: None
    ) -> None:
        """Bury a message, reject it, report it; hold it while its letter cannot be stored."""
        headers = message.headers or {}
        name, task_id = headers.get("task") or "?", headers.get("id") or "?"
        attempt_id = uuid()

        def letter(outcome: Outcome) -> Letter:
            return letters.build(
                self.app,
                message,
                outcome,
                attempt_id=attempt_id,
                worker=self.hostname,
                task=None,
                arguments=_arguments(message),
            )

        attempt = Attempt(
            attempt_id=attempt_id,
            task=name,
            task_id=str(task_id),
            args=(),
            kwargs={},
            retries=0,
            header=header if isinstance(header := headers.get(HEADER), Mapping) else {},
            letter=letter,
        )
        if not settle(self.app, attempt, Outcome(Verdict.UNKNOWN, reason, type(error).__name__, str(error))):
            holding.hold(partial(self._refuse, message, reason, error, report), message)
            return
        logger.error("Message %s[%s] went to the inbox as %s: %s", name, task_id, reason.value, type(error).__name__)
        message.reject_log_error(logger, self.connection_errors)
        report()


def shown(value: Any, *args: Any, **kwargs: Any) -> str:
    """Return Celery's text of a return value; most tasks return nothing, for which Celery's way takes long."""
    return repr(value) if type(value) in _PLAIN else str(saferepr(value, *args, **kwargs))


@contextmanager
def _without_limits(tasks: Iterable[Any]) -> Iterator[None]:
    """Hide the tasks' limits while Celery makes its request classes.

    They would fall back to those limits even where :mod:`orchestrator.engine.limits` says none.
    """
    kept = [(task, task.time_limit, task.soft_time_limit) for task in tasks]
    for task, _, _ in kept:
        task.time_limit = task.soft_time_limit = None
    try:
        yield
    finally:
        for task, hard, soft in kept:
            task.time_limit, task.soft_time_limit = hard, soft


def malformed(message: Any) -> InvalidTaskError | None:
    """Tell what is wrong with the shape of a protocol 2 message; None leaves the rest to Celery.

    Runs for every message, so what JSON gives for a good one is asked for first, by exact type.
    """
    headers = message.headers
    if type(headers) is not dict or "task" not in headers:
        return None
    if type(headers.get("id")) is not str:
        return InvalidTaskError(f"header id is {headers.get('id')!r}, not a string")
    try:
        payload = message.payload
    except Exception:  # undecodable, disallowed or compressed wrongly: Celery's own paths tell which
        return None
    if type(payload) is list and len(payload) == 3:
        args, kwargs, embed = payload
        if type(args) is list and type(kwargs) is dict and type(embed) is dict:
            return None
    return _misshapen(payload)


def _misshapen(payload: Any) -> InvalidTaskError | None:
    if not isinstance(payload, list | tuple) or len(payload) != 3:
        return InvalidTaskError("the body is not [args, kwargs, embed]")
    args, kwargs, embed = payload
    if isinstance(args, list | tuple) and isinstance(kwargs, Mapping) and isinstance(embed, Mapping | None):
        return None
    return InvalidTaskError("args must be a list, kwargs and embed mappings")


def _arguments(message: Any) -> tuple[Any, Any] | None:
    try:
        args, kwargs, _ = message.payload
        return (list(args), dict(kwargs))
    except Exception:  # whatever is wrong with it, the letter keeps the bytes
        return None


def refuse_limits_nobody_keeps(app: Any, pool: Any) -> None:
    """Refuse to start a pool that would silently ignore limits which a task declares.

    Raises:
        ConfigurationError: names the tasks, the pool and the way out.
    """
    kind = type(pool).__module__
    if pool is None or kind == "celery.concurrency.prefork" or getattr(pool, "keeps_limits", False):
        return
    declaring = sorted(task.name for task in app.tasks.values() if getattr(task, "declares_limits", False))
    if declaring:
        raise ConfigurationError(
            f"Pool {kind.rpartition('.')[2]!r} cannot keep time limits, but {', '.join(declaring)} declare(s) "
            "time_limit or soft_time_limit. Start this worker with --pool swarm or --pool prefork, or drop the limits."
        )
