"""Dead letters and people for tests of pages: rows go through the code that files real letters."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from kombu.serialization import dumps

from orchestrator.celery import get_app
from orchestrator.contracts.message import Letter, WireMessage
from orchestrator.contracts.outcome import Reason, Verdict
from orchestrator.deadletters.filing import row_of
from orchestrator.deadletters.models import DeadLetter

TASK = "tests.support.zoo.end"
PASSWORD = "not-a-secret-in-tests"

TRACEBACK = """Traceback (most recent call last):
  File "shop/orders.py", line 41, in send
    receipt = gateway.charge(
        order.amount,
    )
  File "shop/gateway.py", line 7, in charge
    raise ConnectionError("refused")
ConnectionError: refused
"""

#: Permissions by role, beside a superuser.
ROLES: Mapping[str, Sequence[str]] = {
    "viewer": ("view_deadletter",),
    "operator": ("view_deadletter", "redrive_deadletter", "discard_deadletter", "edit_deadletter"),
    "editor": ("view_deadletter", "edit_deadletter", "view_payload"),
    "redriver": ("view_deadletter", "redrive_deadletter"),
    "discarder": ("view_deadletter", "discard_deadletter"),
    "blind": ("redrive_deadletter", "discard_deadletter", "edit_deadletter", "view_payload"),
    "nobody": (),
}


def wire(task: str, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], queue: str) -> WireMessage:
    """Return the message that Celery would have published."""
    made = get_app().amqp.as_task_v2(task_id, task, list(args), dict(kwargs))
    content_type, encoding, body = dumps(made.body, serializer="json")
    return WireMessage(
        body=body.encode() if isinstance(body, str) else body,
        content_type=content_type,
        content_encoding=encoding,
        headers=made.headers,
        properties={"correlation_id": task_id, "delivery_mode": 2, "priority": 0},
        queue=queue,
        routing_key=queue,
    )


def filed(
    args: Sequence[Any] = ("succeed",),
    kwargs: Mapping[str, Any] | None = None,
    *,
    task: str = TASK,
    queue: str = "celery",
    age: float = 60.0,
    **fields: Any,
) -> DeadLetter:
    """File a letter that died ``age`` seconds ago and return its row."""
    kwargs = kwargs or {}
    task_id = fields.pop("task_id", None) or str(uuid.uuid4())
    died = time.time() - age
    given: dict[str, Any] = {
        "attempt_id": uuid.uuid4().hex,
        "verdict": Verdict.FAILED,
        "reason": Reason.RETRIES_EXHAUSTED,
        "task": task,
        "task_id": task_id,
        "message": fields.pop("message", None) or wire(task, task_id, args, kwargs, queue),
        "queue": queue,
        "worker": "worker@test",
        "args_repr": repr(tuple(args)),
        "kwargs_repr": repr(dict(kwargs)),
        "error_type": "ConnectionError",
        "error_message": "refused",
        "traceback": TRACEBACK,
        "retries": 1,
        "history": [{"n": 1, "at": died - 20, "worker": "worker@test", "error": "ConnectionError: refused"}],
        "published_at": died - 30,
        "died_at": died,
    }
    row = row_of(Letter(**{**given, **fields}))
    row.save()
    return row


def person(role: str, *, more: Sequence[str] = ()) -> Any:
    """Return a staff user named after its role; ``admin`` may do everything.

    Args:
        role: ``admin`` or one of :data:`ROLES`.
        more: further permissions, as ``app_label.codename``.
    """
    users = get_user_model()
    if role == "admin":
        return users.objects.create_superuser("admin", password=PASSWORD)
    user = users.objects.create_user(role, password=PASSWORD, is_staff=True)
    wanted = [*(f"orchestrator_deadletters.{name}" for name in ROLES.get(role, ())), *more]
    for name in wanted:
        label, _, codename = name.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=label, codename=codename))
    return user
