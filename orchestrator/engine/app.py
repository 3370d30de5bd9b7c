"""The Celery app: every publish passes the policies, whoever sends."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from celery import Celery
from celery.app.task import Task
from celery.backends.rpc import RPCBackend

from orchestrator.contracts.message import Parcel, Publication, WireMessage
from orchestrator.contracts.policy import PolicyStack
from orchestrator.contracts.ports import Outbox, Partings, Revoked
from orchestrator.engine import keeping, posting, publication, redispatch, succession, undelivered
from orchestrator.engine.defaults import DEFAULTS
from orchestrator.engine.quick import Quick
from orchestrator.transport.inflight import Aside

OPTIONS = "broker_transport_options"


class EngineApp(Celery):  # type: ignore[misc]  # Celery is untyped
    """Celery with ordered policies. Use :class:`orchestrator.OrchestratorApp`, which is wired."""

    control_cls = "orchestrator.engine.revocation:OrchestratedControl"

    def __init__(self, main: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("task_cls", self.task_cls)
        super().__init__(main, **kwargs)
        self.add_defaults(self._defaults)
        # By name: only workers import it.
        self.steps["consumer"].add("orchestrator.engine.drain:Drain")

    def _defaults(self) -> dict[str, Any]:
        """Return our defaults but for what the project sets: Celery would let added defaults beat that."""
        given = self._conf.maps[:-1]
        theirs = {name for name in DEFAULTS if any(key in one for one in given for key in self._conf._to_keys(name))}
        ours = {name: value for name, value in DEFAULTS.items() if name not in theirs}
        if OPTIONS in theirs:
            # Who names a primary or a prefix does not mean to wait for ever.
            ours[OPTIONS] = {**DEFAULTS[OPTIONS], **self._conf[OPTIONS]}
        return ours

    def _connection(self, url: str, *args: Any, **options: Any) -> Any:
        """Return a connection; with ``rediss://``, to a server that shows who it is, unless settings want less."""
        if str(url).startswith("rediss://") and "ssl_" not in url and not self.conf.broker_use_ssl:
            options.setdefault("ssl", {"ssl_cert_reqs": ssl.CERT_REQUIRED})
        return super()._connection(url, *args, **options)

    @cached_property
    def stack(self) -> PolicyStack:
        """The policies, outermost first, built at first use and then frozen."""
        return PolicyStack(())

    @property
    def outbox(self) -> Outbox | None:
        """Where messages wait for a transaction; None sends them at once."""
        return None

    @property
    def revoked(self) -> Revoked | None:
        """Where ids of tasks that were called off are kept; None keeps them nowhere."""
        return None

    @cached_property
    def partings(self) -> Partings | None:
        """Takes what runs give back, to be told with the next call; None lets each tell for itself."""
        return None

    @property
    def message_limit(self) -> int:
        """Bytes that one message may have."""
        return sys.maxsize

    @cached_property
    def inherited_soft_limit(self) -> float | None:
        """The soft time limit of the settings, in seconds; kept, since every look-up of a setting costs."""
        limit: float | None = self.conf.task_soft_time_limit
        return limit

    @cached_property
    def quick(self) -> Quick:
        """The quick way to publish."""
        return Quick(self)

    def _after_fork(self) -> None:
        """Begin without connections, as a process of its own."""
        super()._after_fork()
        self.__dict__.pop("quick", None)

    @property
    def thread_oid(self) -> str:
        """Where replies go, which only a backend that replies by message reads."""
        return str(super().thread_oid) if isinstance(self.backend, RPCBackend) else ""

    def send_unchanged(self, name: str, *args: Any, **options: Any) -> Any:
        """Publish as Celery does by itself, without any policy."""
        return super().send_task(name, *args, **options)

    @cached_property
    def AsyncResult(self) -> Any:
        """Celery's class of results, told apart by ``duplicate_of``."""
        return self.subclass_with_self("orchestrator.engine.result:AsyncResult")

    @cached_property
    def _publish(self) -> Callable[[Publication], Any]:
        return self.stack.publisher(publication.sender(self, super().send_task))

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Publish a task by name through the policies; arguments as for ``Celery.send_task``.

        Beside those, ``outbox=False`` sends at once though a transaction is open, ``outbox=True`` keeps the message
        in the database first though none is, and ``outbox="alias"`` keeps it in that database.

        Raises:
            InvalidOption: the outbox cannot do what was asked for.
        """
        return self._publish(publication.describe(self, name, args, kwargs, rest, options))

    @cached_property
    def ResultSet(self) -> Any:
        """Class of sets of results, which are read together."""
        return self.subclass_with_self("orchestrator.engine.results:Together", name="ResultSet")

    @cached_property
    def GroupResult(self) -> Any:
        """Class of results of groups, which are read together."""
        return self.subclass_with_self("orchestrator.engine.results:TogetherGroup", name="GroupResult")

    def results(self, task_ids: Iterable[str]) -> list[Any]:
        """Return an ``AsyncResult`` for each id, in order; the first look at each costs nothing more.

        With our result backend all states are fetched at once, as they are now: what is looked at a second later,
        or a second time and has not ended, is asked for again.

        Raises:
            DatabaseError: the database cannot be asked.
        """
        ids = [str(task_id) for task_id in task_ids]
        prefetch = getattr(self.backend, "prefetch", None)
        if prefetch is not None:
            prefetch(ids)
        return [self.AsyncResult(task_id) for task_id in ids]

    def run_swarm(self, options: Mapping[str, Any]) -> int:
        """Run a worker of several processes until it is told to stop; see ``engine.swarm.supervisor``.

        Returns:
            the exit code.
        """
        # Only workers import it.
        from orchestrator.engine.swarm import supervisor

        supervisor.prepare(self, options)
        return supervisor.Supervisor(self, options).run()

    def _task_from_fun(self, fun: Any, name: str | None = None, base: Any = None, **options: Any) -> Any:
        """Register a function; a base class of somebody else's is combined with ours."""
        return super()._task_from_fun(fun, name=name, base=self._combined(base), **options)

    def _combined(self, base: Any) -> Any:
        ours = self.Task
        if base is None or issubclass(base, redispatch.marker()):
            return base
        if base is Task or issubclass(ours, base):
            return ours
        # Theirs first, so that what they override stays overridden.
        return type(base.__name__, (base, ours), {"abstract": True, "__module__": base.__module__})

    def redrive(
        self,
        message: WireMessage,
        *,
        task_id: str,
        letter_id: str,
        redrive_of: str,
        nonce: str,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Publish a buried message again under a new id with a fresh retry budget.

        Callbacks, chain, chord and group stay; expiry and ETA go. A worker starts
        at most one of several copies that carry the same ``letter_id``.

        Raises:
            PayloadUnreadable: the message names no task, or edited arguments cannot be put into it.
            BrokerUnavailable: the broker did not take it, as far as is known.
        """
        redispatch.redrive(
            self,
            message,
            task_id=task_id,
            letter_id=letter_id,
            redrive_of=redrive_of,
            nonce=nonce,
            args=args,
            kwargs=kwargs,
        )

    def following(self, cause: str) -> AbstractContextManager[None]:
        """Publish in this context what follows from something that several may see, such as the end of a chord.

        A message whose id was chosen before is then published once, whoever sees the cause again: on our transport,
        and for half an hour (:data:`orchestrator.transport.sender.ONCE`). It goes at once, past the outbox.

        Args:
            cause: its name; the same for all who see it.
        """
        return succession.following(cause)

    def send_kept(self, parcel: Parcel, mark: Mapping[str, Any]) -> bool:
        """Send a message that the outbox kept; ``mark`` tells its copies apart.

        Returns:
            False if it was not sent: it is a duplicate of another message, or was sent already by a publish that got
            no answer.

        Raises:
            BrokerUnavailable: the broker did not take it, as far as is known.
        """
        send = self.stack.sender(lambda kept: keeping.send(self, kept, mark))
        return bool(send(parcel))

    def send_kept_many(self, parcels: Sequence[tuple[Parcel, Mapping[str, Any]]]) -> None:
        """Send messages that the outbox kept, each with its mark, in one call where that can be done.

        Raises:
            BrokerUnavailable: the broker did not take them all, as far as is known.
            PayloadUnreadable: there is nothing that could be sent.
        """
        posting.post(self, parcels)

    def decode(self, message: WireMessage) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """Return ``(args, kwargs, embed)`` of a message.

        Raises:
            PayloadUnreadable: it cannot be decoded.
        """
        return redispatch.decode(message)

    def check_arguments(self, task_name: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Check arguments against a task's signature.

        Raises:
            TaskMissing: no such task is registered here.
            PayloadIncompatible: they do not fit.
        """
        redispatch.check_arguments(self, task_name, args, kwargs)

    def bury_undelivered(self, aside: Aside) -> None:
        """Put a message that the transport cannot deliver into the inbox.

        Raises:
            LetterboxUnavailable: it is not stored and must stay where it is.
        """
        undelivered.bury(self, aside)

    def called_off(self, message: bytes) -> None:
        """Settle a message that was taken out of the broker for good."""
        undelivered.called_off(self, message)

    def member_redriven(self, group_id: str, old_task_id: str, new_task_id: str) -> None:
        """Tell the result backend that a member of a group or chord goes on under a new id."""
        replace = getattr(self.backend, "member_redriven", None)
        if replace is not None:
            replace(group_id, old_task_id, new_task_id)
