"""Running one attempt of a task here, through the real policies and on the real stores."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from celery._state import _task_stack

from orchestrator.celery import get_app
from orchestrator.contracts.message import HEADER, HEADER_VERSION, Attempt
from orchestrator.contracts.outcome import Outcome, Verdict
from orchestrator.engine.redispatch import ATTEMPT
from orchestrator.engine.settlement import outcome_of
from orchestrator.policies.dead_letter import DeadLetters
from orchestrator.testing.recording import Sent, forward, published
from orchestrator.testing.wire import over_the_wire

#: What tasks see as the name of their worker.
WORKER = "testing"


@dataclass(frozen=True)
class Delivery:
    """One message as it reaches a worker; :meth:`run` is an attempt at it."""

    task: Any
    task_id: str
    args: list[Any]
    kwargs: dict[str, Any]
    header: Mapping[str, Any] = field(default_factory=lambda: {"v": HEADER_VERSION})
    retries: int = 0
    attempt_id: str = field(default_factory=lambda: uuid4().hex)

    def run(self) -> Outcome:
        """Run the attempt and tell how it ended."""
        history = self.header.get("history") or [{}]
        self.task.push_request(**self._request())
        _task_stack.push(self.task)
        try:
            with published() as sent:
                try:
                    value = self.task(*self.args, **self.kwargs)
                except (Exception, SystemExit) as error:
                    outcome = outcome_of(error, traceback.format_exc(), str(history[-1].get("error", "")))
                else:
                    verdict = getattr(self.task.request, "orchestrator_verdict", Verdict.SUCCEEDED)
                    outcome = Outcome(verdict, value=value)
        finally:
            _task_stack.pop()
            self.task.pop_request()
        self._settle(outcome)
        forward(sent)
        return outcome

    def settle_lost(self) -> None:
        """Do what a worker does about the stores when the process that ran this attempt has died."""
        self._settle(Outcome(Verdict.LOST))

    def _settle(self, outcome: Outcome) -> None:
        """Tell the policies, as a worker does, except those that bury."""
        attempt = Attempt(
            attempt_id=self.attempt_id,
            task=self.task,
            task_id=self.task_id,
            args=self.args,
            kwargs=self.kwargs,
            retries=self.retries,
            header=self.header,
        )
        for policy in reversed(self.task.app.stack.policies):
            if outcome.verdict is not Verdict.SUCCEEDED and not isinstance(policy, DeadLetters):
                policy.on_settle(attempt, outcome)

    def _request(self) -> dict[str, Any]:
        header = dict(self.header)
        return {
            "id": self.task_id,
            "root_id": self.task_id,
            "task": self.task.name,
            "args": self.args,
            "kwargs": self.kwargs,
            "retries": self.retries,
            "hostname": WORKER,
            "called_directly": False,
            "is_eager": False,
            "delivery_info": {"exchange": "", "routing_key": "", "priority": 0, "redelivered": False},
            "headers": {HEADER: header},
            HEADER: header,
            ATTEMPT: self.attempt_id,
        }


def delivery(task: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Delivery:
    """Return what a worker would get if this call were published now."""
    received_args, received_kwargs = over_the_wire(args, kwargs)
    # A shared task is a stand-in until its app is known; what runs is the real one.
    return Delivery(get_app().tasks[task.name], str(uuid4()), received_args, received_kwargs)


def perform(task: Any, /, *args: Any, **kwargs: Any) -> Outcome:
    """Run one attempt of a task here and return how it ended, with its value.

    The policies are the real ones, on the stores of the settings (or of
    :func:`orchestrator.testing.own_stores`). A retry or deferral is not sent but recorded:
    look at it with ``published()`` around, and go on with ``perform(sent[0])``. Failures
    come back as outcomes; no dead letter is written.

    Args:
        task: the task, with its arguments after it; or one :class:`Sent` publication,
            which brings its own arguments, id, retries and key.
    """
    if isinstance(task, Sent):
        retries = int(task.options.get("retries") or 0)
        found = get_app().tasks[task.task]
        return Delivery(found, task.task_id, task.args, task.kwargs, task.header, retries).run()
    return delivery(task, args, kwargs).run()
