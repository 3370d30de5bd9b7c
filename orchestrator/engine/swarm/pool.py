"""The pool inside a child: one task at a time, in this thread, written down before it begins."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import WorkerShutdown, WorkerTerminate
from kombu.utils.json import dumps

from orchestrator.engine.swarm.slots import GO_ON, Running, Slot

#: What the supervisor sends at a soft time limit.
SOFT_LIMIT = signal.SIGUSR1
_NEVER = float("inf")
#: ``ru_maxrss`` is in KiB, on macOS in bytes.
_KIB = 1024 if sys.platform == "darwin" else 1


class ChildPool(BasePool):  # type: ignore[misc]  # Celery is untyped
    """Celery's solo pool for a process that is watched from outside."""

    body_can_be_buffer = True
    #: Limits are kept here, unlike on Celery's own pools of one process.
    keeps_limits = True

    # Set by the child before Celery makes the pool.
    slot: Slot
    #: Called after a task when this child is to take no more.
    retire: Callable[[], None]
    #: Tasks after which the child is replaced; 0 for never.
    most_tasks = 0
    #: KiB of memory after which it is replaced; 0 for never.
    most_memory = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limit = 1
        self._soft_at = _NEVER
        self._pid = os.getpid()
        self._count = 0
        signal.signal(SOFT_LIMIT, self._on_soft_limit)
        signals.worker_process_init.send(sender=None)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: Any = (),
        kwargs: Any = None,
        callback: Any = None,
        accept_callback: Any = None,
        error_callback: Any = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> None:
        """Run one task to its end."""
        request = callback.__self__
        since = time.monotonic()
        soft_at = since + soft_timeout if soft_timeout else 0.0
        self.slot.start(
            Running(
                int(request._message.delivery_tag),
                time.time(),
                since,
                soft_at,
                since + timeout if timeout else 0.0,
                timeout or 0.0,
                request.id,
                request.name,
                str(request._argsrepr),
                str(request._kwargsrepr),
                dumps(request.stamps) if request.stamped_headers else "",
            )
        )
        if not request.task.acks_late:
            # It is acknowledged in a moment. If this process dies of it, the one who settles that needs it.
            self.slot.keep(_whole(request._message))
        accept_callback(self._pid, since)
        try:
            self._soft_at = soft_at or _NEVER
            result = target(*_decoded(request, args))
            self._soft_at = _NEVER
        except (WorkerShutdown, WorkerTerminate):
            raise
        except BaseException:
            # Raised around the body, not by it: a soft limit in the last moment, a Reject by a hook.
            self._soft_at = _NEVER
            error_callback(ExceptionInfo())
        else:
            callback(result)
        self.slot.end()
        self._count += 1
        if self.slot.orders != GO_ON or self._spent():
            self.retire()

    def _spent(self) -> bool:
        if self.most_tasks and self._count >= self.most_tasks:
            return True
        if not self.most_memory:
            return False
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB >= self.most_memory

    def _on_soft_limit(self, *_: Any) -> None:
        # The signal may come late: another task may run by now, or none.
        if time.monotonic() >= self._soft_at:
            self._soft_at = _NEVER
            raise SoftTimeLimitExceeded()

    def _get_info(self) -> dict[str, Any]:
        return {**super()._get_info(), "max-concurrency": 1, "processes": [self._pid], "timeouts": ()}


def _whole(message: Any) -> bytes:
    """Return a kombu message as JSON, from which a channel makes it again."""
    raw = message.serializable()
    if isinstance(raw["body"], bytes):
        raw["body"] = base64.b64encode(raw["body"]).decode()
        raw["properties"] = {**raw["properties"], "body_encoding": "base64"}
    return json.dumps(raw).encode()


#: Values that a body cannot change.
_PLAIN = frozenset({str, int, float, bool, type(None)})


def _decoded(request: Any, args: Any) -> Any:
    """Spare the tracer decoding a body again that is decoded already.

    Only where nothing in it can be changed by the task: what settles the attempt looks at it again.
    """
    name, task_id, facts, _, content_type, _ = args
    if not content_type:
        return args
    positional, named, embed = request._payload
    for value in positional:
        if type(value) not in _PLAIN:
            return args
    for value in named.values():
        if type(value) not in _PLAIN:
            return args
    if any(embed.values()):
        return args
    return name, task_id, facts, (list(positional), dict(named), embed), None, None
