"""Recording what is published, instead of sending it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

from django.db import connections, transaction
from django.test import TestCase
from kombu.serialization import dumps

from orchestrator.celery import get_app
from orchestrator.contracts.deduplication import Claim
from orchestrator.contracts.message import HEADER, Parcel, Publication, WireMessage
from orchestrator.engine.publication import Dispatcher
from orchestrator.testing.wire import over_the_wire

#: Nothing was said about this argument of :func:`assert_published`.
ANYTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Sent:
    """One publication, as a worker would receive it. Run it with ``perform(sent)``."""

    task: str
    task_id: str
    args: list[Any]
    kwargs: dict[str, Any]
    #: Keyword arguments of ``send_task``: ``queue``, ``countdown``, ``priority``, ``retries`` …
    options: Mapping[str, Any]
    #: Content of our header.
    header: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.task} args={self.args!r} kwargs={self.kwargs!r}"


class Published(Sequence[Sent]):
    """What was published within a ``with published()`` block, in order."""

    def __init__(self) -> None:
        self._sent: list[Sent] = []

    @overload
    def __getitem__(self, index: int) -> Sent: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sent]: ...

    def __getitem__(self, index: int | slice) -> Sent | list[Sent]:
        return self._sent[index]

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, sent: Sent) -> None:
        """Record one more."""
        self._sent.append(sent)

    def of(self, task: Any) -> list[Sent]:
        """Return the publications of one task, given itself or by name."""
        name = task if isinstance(task, str) else task.name
        return [sent for sent in self._sent if sent.task == name]


class _Kept:
    """What the outbox would hold: its claims are unique, and what is sent meets the policies again."""

    def __init__(self, recorder: Published) -> None:
        self._recorder = recorder
        self._claims: dict[str, str] = {}

    def first(self, sent: Sent) -> str | None:
        """Return the task id of a message that has the same claim; else remember this one's."""
        claim = Claim.of(sent.task, sent.header)
        if claim is None or claim.newest:
            return None
        first = self._claims.setdefault(claim.digest, sent.task_id)
        return None if first == sent.task_id else first

    def send(self, sent: Sent) -> None:
        """Record a message as sent, unless it is a duplicate by now."""
        body = dumps((sent.args, sent.kwargs, {}), serializer="json")[2]
        message = WireMessage(body.encode("utf-8"), "application/json", "utf-8", {HEADER: sent.header}, {})
        send = get_app().stack.sender(lambda _: self._recorder.add(sent))
        send(Parcel(sent.task, sent.task_id, message))


#: Recorders at work, the innermost last, and the one that ended last.
_active: list[Published] = []
_last: list[Published] = []


@contextmanager
def published() -> Iterator[Published]:
    """Record what is published in this process within the block; nothing reaches a broker.

    The publishing policies run, and arguments make the way through JSON, so what would be
    refused or could not be sent raises as usual. What was left for a commit is recorded at
    the end of the block, also where the test's own transaction never commits.
    """
    app = get_app()
    recorder, dispatch = Published(), Dispatcher(app)
    kept = _Kept(recorder)

    def record(publication: Publication) -> Any:
        args, kwargs = over_the_wire(publication.args, publication.kwargs)
        options, header = dict(publication.options), dict(publication.header)
        sent = Sent(publication.name, publication.task_id, args, kwargs, options, header)
        place = dispatch.place(publication)
        if place is None:
            recorder.add(sent)
            return app.AsyncResult(publication.task_id)
        # The outbox would keep it until the transaction commits, so it counts from then on.
        first = kept.first(sent)
        if first is not None:
            return dispatch.duplicate(publication, first)
        transaction.on_commit(partial(kept.send, sent), using=place)
        return app.AsyncResult(publication.task_id)

    publish = app.__dict__.get("_publish")
    app.__dict__["_publish"] = app.stack.publisher(record)
    _active.append(recorder)
    try:
        with ExitStack() as commits:
            for alias in connections:
                commits.enter_context(TestCase.captureOnCommitCallbacks(using=alias, execute=True))
            yield recorder
    finally:
        _active.pop()
        _last[:] = [recorder]
        if publish is None:
            app.__dict__.pop("_publish", None)
        else:
            app.__dict__["_publish"] = publish


def forward(sent: Sequence[Sent]) -> None:
    """Show the recorder around us, if there is one, what a recorder of ours saw."""
    if _active:
        for one in sent:
            _active[-1].add(one)


def assert_published(
    task: Any,
    args: Sequence[Any] = ANYTHING,
    kwargs: Mapping[str, Any] = ANYTHING,
    *,
    times: int | None = None,
    sent: Published | None = None,
) -> list[Sent]:
    """Assert that a task was published, and return the publications that match.

    Args:
        task: the task, or its name.
        args, kwargs: as given when it was published; left out, anything matches.
        times: how often; left out, at least once. 0 asserts that it was not.
        sent: what ``published()`` gave; left out, the recorder at work, else the last one.

    Raises:
        AssertionError: tells what was published instead.
    """
    recorder = sent if sent is not None else next(iter([*reversed(_active), *_last]), None)
    if recorder is None:
        raise AssertionError("Nothing is recorded: put the code that publishes into `with published():`.")
    name = task if isinstance(task, str) else task.name
    found = [
        one
        for one in recorder.of(name)
        if (args is ANYTHING or one.args == list(args)) and (kwargs is ANYTHING or one.kwargs == dict(kwargs))
    ]
    if len(found) == times if times is not None else found:
        return found
    wanted = name + ("" if args is ANYTHING else f" args={list(args)!r}")
    wanted += "" if kwargs is ANYTHING else f" kwargs={dict(kwargs)!r}"
    often = "at least once" if times is None else f"{times} times"
    seen = "\n  ".join(str(one) for one in recorder) or "(nothing)"
    raise AssertionError(f"{wanted} was to be published {often}, and was {len(found)} times. Published:\n  {seen}")
