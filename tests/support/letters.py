"""Dead letters for tests that need one lying in the inbox and do not ask how it got there."""

from __future__ import annotations

import uuid
from typing import Any

from django.utils import timezone
from kombu.serialization import dumps

from orchestrator.celery import get_app
from orchestrator.contracts.message import WireMessage
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.deadletters import codec
from orchestrator.deadletters.models import DeadLetter


def dead_letter(*args: Any, task: str = "tests.support.zoo.end", queue: str = "celery", **columns: Any) -> DeadLetter:
    """File a letter whose message is a real one of Celery's protocol, and return its row."""
    task_id = columns.pop("task_id", None) or str(uuid.uuid4())
    made = get_app().amqp.as_task_v2(task_id, task, list(args), {})
    content_type, encoding, body = dumps(made.body, serializer="json")
    message = WireMessage(
        body=body.encode() if isinstance(body, str) else body,
        content_type=content_type,
        content_encoding=encoding,
        headers=made.headers,
        properties={"correlation_id": task_id, "delivery_mode": 2, "priority": 0},
        queue=queue,
        routing_key=queue,
    )
    error = columns.setdefault("error_message", "no such order")
    columns.setdefault("error_type", "builtins.LookupError")
    defaults: dict[str, Any] = {
        "attempt_id": uuid.uuid4().hex,
        "verdict": Verdict.FAILED,
        "reason": Reason.FAILED,
        "task": task,
        "task_id": task_id,
        "queue": queue,
        "worker": "worker@test",
        "args_repr": repr(args),
        "kwargs_repr": "{}",
        "traceback": f'Traceback (most recent call last):\n  File "orders.py", line 7, in send\n{error}',
        "fingerprint": "f" * 32,
        "search": f"{task} {task_id} {error} {args!r}".lower(),
        "payload": codec.seal(message),
        "died_at": timezone.now(),
    }
    return DeadLetter.objects.create(**{**defaults, **columns})
