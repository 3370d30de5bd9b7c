"""Many messages at once: streamed, in batches that are sent whole or not at all, with every policy applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from celery.canvas import Signature
from celery.exceptions import NotRegistered
from kombu.exceptions import OperationalError

from orchestrator.contracts.errors import BrokerUnavailable, InvalidOption
from orchestrator.contracts.message import Parcel, Publication
from orchestrator.engine import keeping, publication, size
from orchestrator.engine.filling import Filled, enveloped_together
from orchestrator.engine.published import Published
from orchestrator.transport.line import Failed

#: Messages of one batch, unless somebody says otherwise, and the most that one may have.
BATCH, MOST = 1000, 5000
#: Bytes of one batch: the server does nothing else while it stores them.
_BYTES = 2 * 1024 * 1024

_TAKEN = object()

#: What ``send_task`` is told of one message.
Call = tuple[str, Any, Any, dict[str, Any]]


class BulkFailed(BrokerUnavailable, OperationalError):
    """The broker did not take a batch, as far as is known; those before it are sent, nothing after it is."""

    def __init__(self, message: str, *, sender: Sender, batch: list[str], maybe_sent: bool) -> None:
        """Say what is known of whom."""
        super().__init__(message, maybe_sent=maybe_sent)
        #: What was sent for certain.
        self.sent: Published = sender.published
        #: Ids that may have been sent: all of them or none.
        self.unknown: list[str] = batch if maybe_sent else []
        #: Ids that certainly were not sent.
        self.not_sent: list[str] = [] if maybe_sent else batch
        self._sender = sender

    def resume(self) -> Published:
        """Go on where it broke off; what may have been sent is not sent twice.

        Raises:
            BulkFailed: the broker did not take a batch again.
        """
        return self._sender.run()


class Sender:
    """One bulk on its way."""

    def __init__(self, app: Any, calls: Iterable[Call | Callable[[], Any]], batch_size: int) -> None:
        """Say what to publish.

        Args:
            calls: one for each message; something to be called publishes by itself.

        Raises:
            InvalidOption: the size of a batch cannot be.
        """
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or not 1 <= batch_size <= MOST:
            raise InvalidOption(f"batch_size={batch_size!r}: give 1 to {MOST} messages.")
        self._app = app
        self._calls = iter(calls)
        self._size = batch_size
        self._number = 0
        self._bytes = 0
        self._batch: list[Filled] = []
        self._kept: list[Parcel] = []
        self._place: str | None = None
        #: What was taken from the calls and is not done, while something before it, or itself, cannot be sent.
        self._left: Callable[[], None] | None = None
        self.published = Published(app)

    def run(self) -> Published:
        """Publish all that is left.

        Raises:
            BulkFailed: the broker did not take a batch.
        """
        if self._batch or self._kept:
            self._flush()
        if self._left is not None:
            self._left()
        try:
            for call in self._calls:
                if callable(call):
                    self._alone(call)
                else:
                    self._publish(*call)
        except BulkFailed:
            raise
        except Exception as error:
            error.add_note(
                f"Of this bulk {len(self.published)} messages were sent before; "
                f"{len(self._batch) + len(self._kept)} more were gathered, and are not sent."
            )
            raise
        self._flush()
        return self.published

    def _publish(self, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
        number = self._number
        if not options.get("task_id"):
            options["task_id"] = self.published.id_of(number)
        one = publication.describe(self._app, name, args, kwargs, (), options)
        one.gather = self._take
        self.published.note(number, one.task_id)
        self._count(self._app._publish(one))

    def _count(self, result: Any) -> None:
        """One more is gathered, or sent."""
        self._left = None
        number, self._number = self._number, self._number + 1
        if result is not _TAKEN:
            # It went its own way, or a policy answered for it.
            self.published.note(number, result.id)
            self._done()
        elif len(self._batch) >= self._size or len(self._kept) >= self._size or self._bytes >= _BYTES:
            self._flush()

    def _alone(self, publish: Callable[[], Any]) -> None:
        self._left = lambda: self._alone(publish)
        self._flush()
        self._count(publish())

    def _take(self, one: Publication, send: Any) -> Any:
        """Take a publication into the batch, or send it alone where it cannot travel in company."""
        app = self._app
        self._left = lambda: self._count(self._take(one, send))
        outbox = app.outbox
        place = None
        if outbox is not None and not keeping.of_the_worker(one) and one.options.get("connection") is None:
            place = outbox.place(one.outbox)
        filled = self._filled(one)
        if filled is None:
            self._flush()
            one.gather = None
            try:
                return send(one)
            except BrokerUnavailable as error:
                raise self._failed([one.task_id], error, error.maybe_sent) from error
        size.check_bytes(app, one, len(filled.text))
        if self._batch if place is not None else self._kept:
            self._flush()
        if place is None:
            self._batch.append(filled)
        else:
            if place != self._place:
                self._flush()
            self._place = place
            self._kept.append(keeping.parcel_of(filled, one))
        self._bytes += len(filled.text)
        return _TAKEN

    def _filled(self, one: Publication) -> Filled | None:
        if one.alone or not self._app.quick.steady():
            return None
        try:
            filled: Filled | None = self._app.quick.fill(one)
        except Failed:
            # The first of its kind needs the broker to be planned. The ordinary way knows what to do without it.
            return None
        return filled

    def _flush(self) -> None:
        if self._kept:
            self._app.outbox.keep_many(self._kept, self._place)
            self._kept = []
        if self._batch:
            self._send(self._batch)
            self._batch = []
        self._bytes = 0
        self._done()

    def _send(self, batch: list[Filled]) -> None:
        try:
            self._app.quick.send_many(batch, enveloped_together(batch))
        except Failed as error:
            raise self._failed([filled.task_id for filled in batch], error, error.maybe_sent) from error

    def _failed(self, ids: list[str], error: Exception, maybe_sent: bool) -> BulkFailed:
        known = "Whether it was sent nobody knows" if maybe_sent else "It was not sent"
        return BulkFailed(
            f"The broker did not take a batch of {len(ids)} messages ({error}); {len(self.published)} were sent "
            f"before. {known}: .sent, .unknown and .not_sent of this error list the ids, and .resume() goes on.",
            sender=self,
            batch=ids,
            maybe_sent=maybe_sent,
        )

    def _done(self) -> None:
        self.published.through(self._number - len(self._batch) - len(self._kept))


def delay_many(task: Any, arguments: Iterable[Any], batch_size: int, options: dict[str, Any]) -> Published:
    """Publish a task once for each item; see :meth:`OrchestratedTask.delay_many`."""
    if "task_id" in options:
        raise InvalidOption("delay_many(task_id=…): every message has an id of its own.")
    return Sender(task.app, (_call(task, *_arguments(task, item), options) for item in arguments), batch_size).run()


def bulk(app: Any, signatures: Iterable[Any], batch_size: int) -> Published:
    """Publish signatures of any number, in batches, in constant memory.

    Args:
        signatures: taken as they are needed. Chains, groups and chords are published one by one, in their turn.
        batch_size: messages that are sent in one call, all of them or none.

    Returns:
        the ids, in order, each made when it is asked for.
    Raises:
        BulkFailed: the broker did not take a batch; says what was sent, and can go on from there.
    """
    return Sender(app, map(_signed, signatures), batch_size).run()


def _arguments(task: Any, item: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(item, Mapping):
        return (), dict(item)
    if isinstance(item, list | tuple):
        return tuple(item), {}
    raise InvalidOption(
        f"delay_many() of {task.name} got a {type(item).__name__}: each item is a tuple of positional arguments or a "
        "dict of named ones, as in delay_many((number,) for number in numbers)."
    )


def _call(task: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> Call | Callable[[], Any]:
    prepare = getattr(task, "bulk_options", None)
    made = prepare(args, kwargs, options) if prepare is not None else None
    if made is None:
        return lambda: task.apply_async(args, kwargs, **options)
    return task.name, args, kwargs, made


def _signed(signature: Any) -> Call | Callable[[], Any]:
    if not isinstance(signature, Signature):
        raise InvalidOption(
            f"bulk() got a {type(signature).__name__}: give signatures, as in bulk(add.s(n, 1) for n in numbers)."
        )
    if type(signature) is not Signature:
        # A chain, a group, a chord: several messages, and some of them depend on others.
        return signature.apply_async  # type: ignore[no-any-return]
    try:
        task = signature.type
    except NotRegistered:
        return signature.apply_async  # type: ignore[no-any-return]
    return _call(task, signature.args, signature.kwargs, dict(signature.options))


__all__ = ["BATCH", "BulkFailed", "Published", "bulk", "delay_many"]
