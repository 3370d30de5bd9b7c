"""When the body of a chord may run: once, when every member of its header succeeded.

Counts only tell when it is worth looking; what decides are the members' stored
states. So a member that is redelivered, or that goes on under a new id after a
redrive, neither doubles nor loses the body.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from celery import maybe_signature, states
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result
from django.db import router, transaction
from django_celery_results.models import ChordCounter, TaskResult

logger = logging.getLogger("orchestrator.runs")


def member_returned(app: Any, group_id: str, body: Any) -> None:
    """Note that a member's result is stored; start the body if it was the last one.

    The body is published before the counter row goes, both under its lock: after a
    crash in between the member is delivered again and the body published again
    under its same id, rather than never.
    """
    using = router.db_for_write(ChordCounter)
    with transaction.atomic(using=using):
        counter = ChordCounter.objects.using(using).select_for_update().filter(group_id=group_id).first()
        if counter is None:
            logger.info("Chord %s is done already; a member was run again", group_id)
            return
        if counter.count > 0:
            counter.count -= 1
            counter.save(using=using, update_fields=["count"])
        if counter.count > 0:
            return
        header = counter.group_result(app=app)
        members = _states(header)
        if not all(state in states.READY_STATES for state in members.values()):
            return
        callback = maybe_signature(body, app=app)
        failed = [task_id for task_id, state in members.items() if state in states.PROPAGATE_STATES]
        if failed:
            # The row stays: a redrive of the failed member can still complete the chord.
            _fail(app, header, callback, failed)
            return
        with allow_join_result():
            values = header.join(timeout=app.conf.result_chord_join_timeout, propagate=True)
        callback.delay(values)
        counter.delete(using=using)


def replace_member(group_id: str, old_task_id: str, new_task_id: str) -> None:
    """Let a chord wait for ``new_task_id`` where it waited for ``old_task_id``."""
    using = router.db_for_write(ChordCounter)
    with transaction.atomic(using=using):
        counter = ChordCounter.objects.using(using).select_for_update().filter(group_id=group_id).first()
        if counter is None:
            return
        members = json.loads(counter.sub_tasks)
        replaced = renamed(members, old_task_id, new_task_id)
        if replaced == members:
            return
        counter.sub_tasks = json.dumps(replaced)
        # The count stays: the member that returns under its new id finds it at nought and looks at the states,
        # and a redrive that is taken back leaves nothing behind that nobody counts down.
        counter.save(using=using, update_fields=["sub_tasks"])


def renamed(value: Any, old: str, new: str) -> Any:
    """Return a nested structure of lists with one string replaced."""
    if isinstance(value, list | tuple):
        return [renamed(item, old, new) for item in value]
    return new if value == old else value


def _states(header: Any) -> dict[str, str]:
    if any(isinstance(result, GroupResult) for result in header.results):
        return {header.id: states.SUCCESS if header.successful() else states.FAILURE} if header.ready() else {"": ""}
    ids = [result.id for result in header.results]
    known = dict(TaskResult.objects.filter(task_id__in=ids).values_list("task_id", "status"))
    return {task_id: known.get(task_id, states.PENDING) for task_id in ids}


def _fail(app: Any, header: Any, callback: Any, failed: list[str]) -> None:
    body_id = callback.id
    if body_id and app.backend.get_state(body_id) == states.FAILURE:
        return
    app.backend.chord_error_from_stack(callback, ChordError(f"Dependency {failed[0]} failed"))
