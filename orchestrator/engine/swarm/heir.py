"""Settling what a dead child was working on: its successor does it, as a prefork worker's main process would.

The supervisor never does: settling calls hooks of the task, writes results and publishes
successors, which is work of a child. It keeps the lease of the dead one until then.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.exceptions import NotRegistered
from celery.worker.request import create_request_cls
from celery.worker.strategy import hybrid_to_proto2, proto1_to_proto2
from kombu.utils.imports import symbol_by_name

from orchestrator.engine.swarm.slots import Running, Slot

logger = logging.getLogger("orchestrator.engine")

#: Ways in which a child's task was ended from outside: by a hard time limit, by a revocation, or nobody knows.
TIMED_OUT, TERMINATED, LOST = "timed_out", "terminated", "lost"


def settle(consumer: Any, estate: dict[str, Any], slot: Slot) -> None:
    """Settle one message.

    Args:
        estate: ``owner`` and ``serial`` of the message, the ``attempt`` at it, ``how`` that ended, and ``limit`` in
            seconds, ``signum`` or ``status`` (as ``os.waitpid`` gives it), depending on that; ``message`` where the
            broker has it no more.
        slot: where it is written down, in case a hook of the task ends this process as well.
    """
    channel, kept = consumer.task_consumer.channel, estate.get("message")
    if kept:
        message = channel.Message(json.loads(kept), channel=channel)
    else:
        message = channel.take_over(estate["owner"], estate["serial"])
    if message is None:
        logger.info("Task %s[%s] was done with, or went elsewhere.", estate["name"], estate["id"])
        return
    try:
        task = consumer.app.tasks[message.headers["task"]]
    except NotRegistered:
        # It ran a moment ago; whatever is odd here, another look at it does no harm.
        message.requeue()
        return
    now = time.monotonic()
    slot.start(
        Running(
            int(message.delivery_tag or estate["serial"]), time.time(), now, 0.0, 0.0, 0.0, estate["id"], estate["name"]
        )
    )
    try:
        _settle(consumer, message, task, estate)
    finally:
        slot.end()


def _settle(consumer: Any, message: Any, task: Any, estate: dict[str, Any]) -> None:
    request = _request(consumer, message, task)
    # A message that was kept has been acknowledged at its start.
    request.acknowledged = "message" in estate
    # What the dead one held under this attempt's id, such as a key or a slot, is given back by it.
    request._attempt_id = estate["attempt"]
    request.worker_pid = estate["pid"]
    request.time_start = estate["started_at"]
    if estate["how"] == TIMED_OUT:
        request.on_timeout(soft=False, timeout=estate["limit"])
    elif estate["how"] == TERMINATED:
        request._announce_revoked("terminated", True, estate["signum"], False)
    else:
        request.on_failure(_lost(estate["status"]))


def _request(consumer: Any, message: Any, task: Any) -> Any:
    """Make the request as Celery's strategy does."""
    body, headers, decoded, utc = message.body, message.headers, False, consumer.app.uses_utc_timezone()
    if "task" not in message.headers:
        body, headers, decoded, utc = proto1_to_proto2(message, message.payload)
    elif "args" in message.payload:
        body, headers, decoded, utc = hybrid_to_proto2(message, message.payload)
    kind = create_request_cls(
        symbol_by_name(task.Request),
        task,
        consumer.pool,
        consumer.hostname,
        consumer.event_dispatcher,
        app=consumer.app,
    )
    return kind(
        message,
        on_ack=message.ack_log_error,
        on_reject=message.reject_log_error,
        app=consumer.app,
        hostname=consumer.hostname,
        eventer=consumer.event_dispatcher,
        task=task,
        connection_errors=consumer.connection_errors,
        body=body,
        headers=headers,
        decoded=decoded,
        utc=utc,
    )


def _lost(status: int) -> Any:
    code = os.waitstatus_to_exitcode(status)
    try:
        raise WorkerLostError(f"Worker exited prematurely: {human_status(code)}.")
    except WorkerLostError:
        return ExceptionInfo()
