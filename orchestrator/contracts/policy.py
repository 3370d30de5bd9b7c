"""Ordered policies around publishing, executing and settling.

A policy wraps only where it must veto, replace or hold something; whoever only
wants to know subscribes to events (the rule is River's). ``proceed`` nests as in
Procrastinate's middleware: the first policy listed is the outermost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.contracts.breaker import Breakers
from orchestrator.contracts.deduplication import DeduplicationLocks
from orchestrator.contracts.idempotency import IdempotencyRecords, TransactionalRecords
from orchestrator.contracts.limiting import LimitStore
from orchestrator.contracts.message import Attempt, Parcel, Publication
from orchestrator.contracts.outcome import Outcome
from orchestrator.contracts.ports import AttemptLog, Dispatch, EndedRows, Leases, Letterbox, ProgressLog


@dataclass(frozen=True, slots=True)
class Parts:
    """What policies are made of; the composition root fills it in."""

    letterbox: Letterbox
    leases: Leases
    idempotency: IdempotencyRecords
    limits: LimitStore
    #: Loaded when a task first asks for it: it needs a database model.
    transactional_records: Callable[[], TransactionalRecords]
    deduplication: DeduplicationLocks
    dispatch: Dispatch
    breakers: Breakers
    attempts: AttemptLog
    progress: ProgressLog
    ended_rows: EndedRows
    redacted_names: tuple[str, ...] = ()
    #: Seconds that a lease lasts without being renewed.
    lease_seconds: float = 30.0
    #: What a body raises to steer its message, beside our own.
    control_flow: tuple[type[BaseException], ...] = ()
    #: Whether a call is sent that cannot be checked for being a duplicate.
    deduplication_open: bool = True
    #: Whether tasks run without their limits while those cannot be asked.
    limits_open: bool = False


class Policy:
    """Base of all policies: every hook passes through.

    Laws, tested for every policy: ``proceed`` is called at most once; an exception
    it does not own passes unchanged; what it took it releases on every exit;
    ``on_settle`` may be called twice for one attempt without harm.
    """

    #: Whether it holds something under an attempt's id while the body runs; whoever
    #: settles for a process that died then knows that id.
    holding = False

    def on_publish(self, publication: Publication, proceed: Callable[[Publication], Any]) -> Any:
        """Wrap one act of sending."""
        return proceed(publication)

    def on_send(self, parcel: Parcel, proceed: Callable[[Parcel], Any]) -> Any:
        """Wrap the sending of a message that the outbox kept; whether it was published is known by then."""
        return proceed(parcel)

    def on_execute(self, attempt: Attempt, proceed: Callable[[Attempt], Any]) -> Any:
        """Wrap the task's body, in the process that runs it."""
        return proceed(attempt)

    def on_settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Act on an outcome before the message is acknowledged."""

    def applies(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Whether this policy has anything to do around this task's body.

        Asked once for each task and set of header *keys*; the answer is kept.
        """
        return True

    @classmethod
    def build(cls, parts: Parts) -> Policy:
        """Make the policy out of what the composition root offers."""
        return cls()


class PolicyStack:
    """The policies of an app, in order, frozen once built.

    Chains are composed once per hook (and per task for execution), out of those
    policies only that override the hook, so a hook nobody uses costs nothing.
    """

    def __init__(self, policies: Iterable[Policy]) -> None:
        self.policies = tuple(policies)
        self._publishing = self._overriding("on_publish")
        self._sending = self._overriding("on_send")
        self._executing = self._overriding("on_execute")
        self._settling = tuple(reversed(self._overriding("on_settle")))
        self._holding = tuple(p for p in self.policies if p.holding)

    def _overriding(self, hook: str) -> tuple[Policy, ...]:
        return tuple(p for p in self.policies if getattr(type(p), hook) is not getattr(Policy, hook))

    def publisher(self, send: Callable[[Publication], Any]) -> Callable[[Publication], Any]:
        """Return ``send`` wrapped by every policy's ``on_publish``."""
        return _nest([p.on_publish for p in self._publishing], send)

    def sender(self, send: Callable[[Parcel], Any]) -> Callable[[Parcel], Any]:
        """Return ``send`` wrapped by every policy's ``on_send``."""
        return _nest([p.on_send for p in self._sending], send)

    def executor(
        self, task: Any, header: Mapping[str, Any], run: Callable[[Attempt], Any]
    ) -> Callable[[Attempt], Any] | None:
        """Return ``run`` wrapped by the policies that apply, or None if none does."""
        hooks = [p.on_execute for p in self._executing if p.applies(task, header)]
        return _nest(hooks, run) if hooks else None

    def holds(self, task: Any, header: Mapping[str, Any]) -> bool:
        """Whether something will be held under the id of an attempt at this task."""
        return any(p.applies(task, header) for p in self._holding)

    def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Tell every policy, innermost first."""
        for policy in self._settling:
            policy.on_settle(attempt, outcome)


def _nest(hooks: list[Callable[..., Any]], innermost: Callable[[Any], Any]) -> Callable[[Any], Any]:
    chain = innermost
    for hook in reversed(hooks):
        chain = _link(hook, chain)
    return chain


def _link(hook: Callable[..., Any], proceed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def step(subject: Any) -> Any:
        return hook(subject, proceed)

    return step
