"""Sends one message for every ending to a real worker and keeps what became of them.

One worker run serves many assertions: starting it is the slow part.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery import states
from django_celery_results.models import TaskResult

from orchestrator.celery import get_app
from orchestrator.deadletters.models import DeadLetter
from tests.support import far_side, zoo
from tests.support.wait import eventually
from tests.support.worker import Relay, Worker

UNKNOWN_NAME = "tests.support.zoo.renamed_last_week"


@dataclass
class Run:
    """What one worker made of every ending."""

    pool: str
    sent: dict[str, str] = field(default_factory=dict)
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    buried: int = 0
    results: dict[str, TaskResult] = field(default_factory=dict)
    effects: dict[str, int] = field(default_factory=dict)
    log: str = ""


def raw(body: bytes, content_type: str = "application/json", **headers: Any) -> str:
    """Publish a message that no task call would make; return its id."""
    task_id = str(uuid.uuid4())
    with get_app().producer_or_acquire() as producer:
        producer.publish(
            body,
            exchange="",
            routing_key="celery",
            content_type=content_type,
            content_encoding="utf-8",
            headers={"id": task_id, "lang": "py", **headers},
            correlation_id=task_id,
        )
    return str(headers.get("id", task_id))


def _call(how: str, **options: Any) -> Callable[[], str]:
    return lambda: zoo.end.apply_async((how,), {"key": how}, **options).id


#: Endings that every pool can show.
EVERYWHERE: dict[str, Callable[[], str]] = {
    "succeed": _call("succeed"),
    "fail": _call("fail"),
    "permanent": _call("permanent"),
    "reject": _call("reject"),
    "ignore": _call("ignore"),
    "replace": lambda: zoo.end.apply_async(("replace",), {"key": "replace"}).id,
    "defer": _call("defer"),
    "unstorable": _call("unstorable"),
    "exit": _call("exit"),
    "no_memory": _call("no_memory"),
    "unpicklable": _call("unpicklable"),
    "celery_retry": _call("celery_retry"),
    "retries_exhausted": lambda: zoo.flaky.delay("retries_exhausted").id,
    "retry_helps": lambda: zoo.flaky.delay("retry_helps", good_after=1).id,
    "permanent_beats_retry": lambda: zoo.flaky_but_permanent.delay("permanent_beats_retry").id,
    "coroutine": lambda: zoo.coroutine.delay("coroutine").id,
    "secretive": lambda: zoo.secretive.delay(1, "4111222233334444", person="Person Longname").id,
    "expired": lambda: zoo.fleeting.apply_async(("expired",), expires=-5).id,
    "expired_buried": lambda: zoo.precious.apply_async(("expired_buried",), expires=-5).id,
    "unknown_task": lambda: get_app().send_task(UNKNOWN_NAME, (1,), {"password": "hunter2hunter2"}).id,
    "content_type": lambda: raw(b"\x80\x04N.", "application/x-python-serialize", task=zoo.add.name),
    "undecodable": lambda: raw(b'[[1, 2], {"x": ', task=zoo.add.name),
    "no_task_name": lambda: raw(b'{"hello": "world"}'),
    "bad_body": lambda: raw(b"5", task=zoo.add.name, retries=0),
    "bad_id": lambda: raw(b"[[1, 2], {}, {}]", task=zoo.add.name, id=5),
    "bad_kwargs": lambda: raw(json.dumps([[1], "five", {}]).encode(), task=zoo.add.name, retries=0),
}
#: Pools that have them.
WITH_PROCESSES = ("swarm", "prefork")
#: Endings that need processes of their own.
PROCESSES_ONLY: dict[str, Callable[[], str]] = {
    "die": _call("die"),
    "soft_limit": _call("soft_limit", soft_time_limit=1, time_limit=30),
    "hard_limit": _call("hard_limit", soft_time_limit=1, time_limit=2),
    "hard_limit_alone": _call("soft_limit", time_limit=1),
    "declared_hard_limit": lambda: get_app().send_task("tests.support.zoo_limits.hardly", ("declared_hard_limit",)).id,
    "declared_limit": lambda: get_app().send_task("tests.support.zoo_limits.softly", ("declared_limit",)).id,
}
#: Endings after which the message is in the inbox.
BURIED = {
    "fail": "failed",
    "permanent": "permanent_error",
    "reject": "rejected",
    "unstorable": "result_not_stored",
    "no_memory": "failed",
    "unpicklable": "failed",
    "celery_retry": "retries_exhausted",
    "retries_exhausted": "retries_exhausted",
    "permanent_beats_retry": "permanent_error",
    "secretive": "retries_exhausted",
    "expired_buried": "expired",
    "unknown_task": "unknown_task",
    "content_type": "content_type",
    "undecodable": "undecodable",
    "no_task_name": "invalid_message",
    "bad_body": "invalid_message",
    "bad_id": "invalid_message",
    "bad_kwargs": "invalid_message",
    "die": "worker_lost",
    "soft_limit": "soft_time_limit",
    "hard_limit": "time_limit",
    "hard_limit_alone": "time_limit",
    "declared_hard_limit": "time_limit",
    "declared_limit": "soft_time_limit",
}
#: An exit is a lost process under prefork, and an ordinary failure where it would be the whole worker.
EXIT_REASON = {"prefork": "worker_lost", "swarm": "failed", "solo": "failed", "threads": "failed"}


def expected(pool: str) -> dict[str, str]:
    """Return the reason of every ending that this pool buries."""
    skipped = () if pool in WITH_PROCESSES else PROCESSES_ONLY
    return {**{how: why for how, why in BURIED.items() if how not in skipped}, "exit": EXIT_REASON[pool]}


def run(pool: str, order: Callable[[list[str]], list[str]] = list) -> Run:
    """Let a worker of this pool meet every ending, in some order; needs an empty broker and database."""
    far_side.clear()
    made = Run(pool)
    senders = {**EVERYWHERE, **(PROCESSES_ONLY if pool in WITH_PROCESSES else {})}
    made.sent = {how: senders[how]() for how in order(list(senders))}
    env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.zoo_limits"} if pool in WITH_PROCESSES else {}
    buried = expected(pool)
    with Worker(pool=pool, concurrency=2, env=env) as worker, Relay() as relay:
        # What the inbox must not get is told by the broker: nothing is left to run.
        eventually(
            lambda: not missing(made, buried) and _idle(made),
            timeout=90,
            message=lambda: f"missing {missing(made, buried)}\n{worker.tail(60)}\n{relay.tail(20)}",
        )
        made.log = worker.log
    made.letters = {_how(made, row): row for row in DeadLetter.objects.all()}
    made.buried = DeadLetter.objects.count()
    made.results = {_how(made, row): row for row in TaskResult.objects.all()}
    made.effects = dict(far_side.counts())
    return made


def missing(made: Run, buried: dict[str, str]) -> set[str]:
    """Return the endings whose letter has not come."""
    return set(buried) - {_how(made, row) for row in DeadLetter.objects.all()}


def _idle(made: Run) -> bool:
    ids = [made.sent[how] for how in ("succeed", "replace", "defer", "retry_helps", "coroutine", "expired")]
    # Results are seen before they are rows, and rows are what is looked at afterwards.
    return TaskResult.objects.filter(task_id__in=ids, status__in=states.READY_STATES).count() == len(ids)


def _how(made: Run, row: Any) -> str:
    return next((how for how, task_id in made.sent.items() if task_id == row.task_id), row.task_id)
