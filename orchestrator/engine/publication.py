"""From ``send_task`` arguments to a publication and back."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from celery._state import _task_stack
from celery.utils import uuid
from kombu.exceptions import BatchPublishError, LimitExceeded, OperationalError

from orchestrator.contracts import ordering
from orchestrator.contracts.errors import BrokerUnavailable, InvalidOption, UnknownOption
from orchestrator.contracts.message import HEADER, HEADER_VERSION, ONCE, Parcel, Publication
from orchestrator.engine import keeping, size, succession, times
from orchestrator.transport.line import Failed
from orchestrator.transport.refusals import refusal
from orchestrator.transport.sender import doubt, in_doubt

#: Options of a call that this module takes; policies take further ones.
OURS = ("outbox", ordering.KEY)
#: Positional parameters of ``Celery.send_task`` after ``name, args, kwargs``.
POSITIONAL = ("countdown", "eta", "task_id", "producer", "connection", "router", "result_cls", "expires")


#: Who publishes is told at once; whether to try again under the same id is his to decide.
OUTSIDE = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "interval_max": 0}
#: A task can wait for a broker that restarts: what it publishes follows from work that is done already.
WITHIN_A_TASK = {"max_retries": 12, "interval_start": 0, "interval_step": 0.3, "interval_max": 2}


class PublishFailed(BrokerUnavailable, OperationalError):
    """The broker did not take a message, as far as is known. Also the error that Celery's callers expect."""

    def __init__(self, message: str, *, task_id: str, maybe_sent: bool) -> None:
        """Name the task's id, under which publishing again is safe."""
        super().__init__(message, maybe_sent=maybe_sent)
        self.task_id = task_id


def describe(
    app: Any, name: str, args: Any, kwargs: Any, rest: tuple[Any, ...], options: dict[str, Any]
) -> Publication:
    """Build the publication for one ``send_task`` call.

    A publish is *not* new if it carries retries or the id of the task that is
    running here: a retry, a deferral, or the successor of ``Task.replace()``.

    Raises:
        UnknownOption: an option looks like a slip of ours.
        InvalidOption: the ordering key cannot be made, or nothing could keep the order.
    """
    if rest:
        options.update(zip(POSITIONAL, rest, strict=False))
    chosen = options.pop("task_id", None)
    task_id = chosen or uuid()
    outbox = options.pop("outbox", None)
    order = options.pop(ordering.KEY, None)
    for option in options:
        if _slip(option):
            # Celery would carry it along as a property of the message and nobody would ever know.
            raise UnknownOption.among(option, OURS, f"publishing {name}")
    current = _task_stack.top
    headers = options.get("headers")
    carried = headers.get(HEADER) if headers else None
    publication = Publication(
        name=name,
        task_id=task_id,
        args=args or (),
        kwargs=kwargs or {},
        options=options,
        task=options.get("task_type") or app._tasks.get(name),
        republication=bool(options.get("retries")) or (current is not None and current.request.id == task_id),
        header=dict(carried) if carried else {"v": HEADER_VERSION},
        outbox=outbox,
    )
    publication.header.pop(ONCE, None)
    if order is not None or getattr(publication.task, ordering.KEY, None) is not None:
        _put_in_order(app, publication, order)
    if chosen and keeping.of_the_worker(publication):
        succession.name(publication, None if current is None else current.request)
    return publication


def _put_in_order(app: Any, publication: Publication, given: Any) -> None:
    """Have a publication wait for its turn in the outbox; what a worker publishes for itself has none."""
    if keeping.of_the_worker(publication):
        return
    name, options = publication.name, publication.options
    key = ordering.of_call(given, name, publication.task, publication.args, publication.kwargs)
    if not key:
        return
    for at_fault, reason in (
        (app.outbox is None, "this project has no outbox, which keeps the order. Set ORCHESTRATOR['OUTBOX'] to True"),
        (publication.outbox is False, "outbox=False sends at once, which keeps no order. Leave one of them away"),
        (options.get("connection") is not None, "connection= sends at once, which keeps no order. Leave it away"),
    ):
        if at_fault:
            raise InvalidOption(f"{ordering.KEY}={key!r} for {name}: {reason}.")
    publication.ordering_key = key
    if publication.outbox is None:
        publication.outbox = True


@cache
def _slip(option: str) -> bool:
    """Whether a name looks like a slip of our own option."""
    return bool(difflib.get_close_matches(option, OURS, n=1, cutoff=0.75))


class Dispatcher:
    """What a policy may ask about a publication (:class:`~orchestrator.contracts.ports.Dispatch`)."""

    def __init__(self, app: Any) -> None:
        self._app = app

    def place(self, publication: Publication) -> str | None:
        """Return the database that will keep it until it is sent.

        Raises:
            InvalidOption: the outbox cannot do what was asked for.
        """
        outbox = self._app.outbox
        if _never_kept(outbox, publication):
            return None
        place: str | None = outbox.place(publication.outbox)
        return place

    def of_the_worker(self, publication: Publication) -> bool:
        """Whether a worker publishes it for itself."""
        return keeping.of_the_worker(publication)

    def duplicate(self, publication: Publication, task_id: str) -> Any:
        """Return the first one's result, told that this call is its duplicate."""
        result = (publication.options.get("result_cls") or self._app.AsyncResult)(task_id)
        result.ignored = publication.options.get("ignore_result")
        result.duplicate_of = task_id
        return result


def _never_kept(outbox: Any, publication: Publication) -> bool:
    """Whether the outbox has no say."""
    return outbox is None or keeping.of_the_worker(publication) or publication.options.get("connection") is not None


def sender(app: Any, send_task: Callable[..., Any]) -> Callable[[Publication], Any]:
    """Return the innermost step of the publish chain: Celery's own ``send_task``, or the outbox."""

    dispatch = Dispatcher(app)

    def send(publication: Publication) -> Any:
        options = publication.options
        headers = options.pop("headers", None)
        options["headers"] = {**headers, HEADER: publication.header} if headers else {HEADER: publication.header}
        times.keep(app, options)
        if publication.gather is not None:
            return publication.gather(publication, send)
        outbox = app.outbox
        place = dispatch.place(publication)
        if place is not None:
            size.check(app, publication)
            result, parcel = _built(send_task, publication)
            first = outbox.keep(parcel, place)
            return result if first is None else dispatch.duplicate(publication, first)
        if _never_kept(outbox, publication):
            _refuse_without(outbox, publication)
            return _direct(app, send_task, publication)
        if publication.outbox is False or not outbox.fallback:
            return _direct(app, send_task, publication)
        try:
            return _direct(app, send_task, publication)
        except Exception as error:
            if not keeping.broker_refused(app, error):
                raise
            result, parcel = _built(send_task, publication)
            outbox.rescue(replace(parcel, doubt=doubt(publication.task_id)), error)
            return result

    return send


def _direct(app: Any, send_task: Callable[..., Any], publication: Publication) -> Any:
    """Send now.

    Raises:
        MessageTooBig: it is more than is allowed.
        PublishFailed: the broker did not take it, as far as is known.
    """
    if app.quick.steady():
        sent = _quickly(app, publication)
        if sent is not None:
            return sent
    size.check(app, publication)
    options = publication.options
    arguments = (publication.name, publication.args, publication.kwargs)
    try:
        if _task_stack.top is not None or options.get("producer") or options.get("connection"):
            if _task_stack.top is not None:
                options.setdefault("retry_policy", WITHIN_A_TASK)
            return send_task(*arguments, task_id=publication.task_id, **options)
        options.setdefault("retry_policy", OUTSIDE)
        # The message and the event that tells of it travel together, where the transport can do that.
        with app.producer_or_acquire() as producer, producer.batch():
            return send_task(*arguments, task_id=publication.task_id, **{**options, "producer": producer})
    except (OperationalError, LimitExceeded, BatchPublishError) as error:
        raise _failed(publication, error) from error
    except Exception as error:
        # A queue cannot be declared, say.
        if refusal(error) is None:
            raise
        raise _failed(publication, error) from error


def _quickly(app: Any, publication: Publication) -> Any:
    """Send now, without Celery's detours, or return None for what has to make them.

    Raises:
        MessageTooBig: it is more than is allowed.
        PublishFailed: the broker did not take it, as far as is known.
    """
    quick = app.quick
    try:
        filled = quick.fill(publication)
        if filled is None:
            return None
        size.check_bytes(app, publication, len(filled.text))
        return quick.send(filled, publication)
    except Failed as error:
        if error.refused or _task_stack.top is not None:
            # Celery's way knows what to make of it, and waits where a task can wait. It sends nothing twice.
            return None
        raise _failed(publication, error, maybe_sent=error.maybe_sent) from error


def _built(send_task: Callable[..., Any], publication: Publication) -> tuple[Any, Parcel]:
    """Let Celery do everything but send; return its result object and the message."""
    capture = keeping.Capture()
    # A producer that somebody lends us (canvas does) is for sending.
    options = {**publication.options, "producer": capture}
    options.pop("publisher", None)
    result = send_task(publication.name, publication.args, publication.kwargs, task_id=publication.task_id, **options)
    return result, capture.parcel(publication)


def _refuse_without(outbox: Any, publication: Publication) -> None:
    """An outbox that was asked for by name must not be passed over in silence."""
    if outbox is None and publication.outbox not in (None, False):
        raise InvalidOption(
            f"outbox={publication.outbox!r} for {publication.name}: this project has no outbox. "
            "Set ORCHESTRATOR['OUTBOX'] to True, or leave the option away."
        )


def _failed(publication: Publication, error: BaseException, maybe_sent: bool | None = None) -> PublishFailed:
    nobody, refused = _nobody(error), refusal(error)
    if maybe_sent is None:
        maybe_sent = nobody is None and refused is None and not isinstance(error, LimitExceeded)
    maybe_sent = maybe_sent or in_doubt(publication.task_id)
    reason = nobody or (refused.answer if refused else error)
    known = "It may have been sent all the same" if maybe_sent else "It was not sent"
    return PublishFailed(
        f"The broker did not take {publication.name}[{publication.task_id}] ({reason}). {known}; "
        f"publishing it again with task_id={publication.task_id!r} is safe. "
        + ((refused and refused.way_out) or "Is the broker running, and is CELERY_BROKER_URL right?"),
        task_id=publication.task_id,
        maybe_sent=maybe_sent,
    )


def _nobody(error: BaseException | None) -> BaseException | None:
    """Return the error that says that nobody listened where the broker should be, if there is one."""
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return error
        error = error.__cause__ or error.__context__
    return None
