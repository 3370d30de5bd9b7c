"""When the body of a chord may run: once, when every member of its header succeeded.

A set in Redis of the members that are out tells when it is worth looking; what decides
are the members' stored states, under the lock of the chord's row. So a member that is
redelivered, that goes on under a new id after a redrive, or whose set is lost, neither
doubles nor loses the body. Whatever cut off the last look, a relay looks again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from celery import group, maybe_signature, states
from celery.canvas import _chain
from celery.exceptions import ChordError
from celery.result import GroupResult, allow_join_result
from django.db import router, transaction
from django.utils import timezone
from django_celery_results.models import ChordCounter

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.runs import reading
from orchestrator.runs.models import Chord
from orchestrator.runs.outgoing import chord_sets, store

logger = logging.getLogger("orchestrator.runs")

#: Seconds until a relay looks at a chord for the first time, and the longest between two looks.
LOOKS = (10.0, 600.0)


def begin(app: Any, header: Any, body: Any) -> None:
    """Note a chord before its members are sent; in a transaction, with it.

    Raises:
        DatabaseError: it is not noted; the members must not be sent.
    """
    if not isinstance(header, GroupResult):
        header = app.GroupResult(*header)
    using = router.db_for_write(ChordCounter)
    members = [result.as_tuple() for result in header]
    ids = list(_leaves(header))
    with transaction.atomic(using=using):
        ChordCounter.objects.using(using).create(
            group_id=header.id, sub_tasks=json.dumps(members), count=body.get("chord_size", None) or len(ids)
        )
        Chord.objects.using(using).create(group_id=header.id, body=json.dumps(body), look_at=_later(0))
    transaction.on_commit(partial(_expect, header.id, ids), using=using)


def member_returned(app: Any, group_id: str, task_id: str, body: Any) -> None:
    """Note that a member's result is stored; look at the chord if nobody else is out.

    *Fails: open without Redis: a relay looks later.*

    Raises:
        DatabaseError: the last member could not look; its message must not be acknowledged.
    """
    try:
        if chord_sets().change(group_id, back=[task_id]):
            return
    except StoreUnavailable as error:
        logger.warning("Whether chord %s is complete is seen later: %s", group_id, error)
        return
    look(app, group_id, body)


def look(app: Any, group_id: str, body: Any) -> bool:
    """Start a chord's body if all members succeeded, fail it if one failed; return whether it is settled.

    The body is published before the chord's row goes, both under its lock: after a crash in between whoever
    looks next publishes it again, rather than never; our transport drops that.
    """
    using = router.db_for_write(ChordCounter)
    with transaction.atomic(using=using):
        counter = ChordCounter.objects.using(using).select_for_update().filter(group_id=group_id).first()
        if counter is None:
            logger.info("Chord %s is done already; a member was run again", group_id)
            return True
        header = counter.group_result(app=app)
        known = _ended(group_id, list(_leaves(header)))
        if known is None:
            return False
        callback = maybe_signature(body, app=app)
        failed = [task_id for task_id, state in known.items() if state in states.PROPAGATE_STATES]
        if failed:
            # The rows stay: a redrive of the failed member can still complete the chord.
            Chord.objects.using(using).filter(group_id=group_id).update(look_at=None)
            _fail(app, callback, failed)
            return True
        with allow_join_result():
            values = header.join(timeout=app.conf.result_chord_join_timeout, propagate=True)
        with app.following(f"chord {group_id}"):
            callback.delay(values)
        counter.delete(using=using)
        Chord.objects.using(using).filter(group_id=group_id).delete()
    return True


def look_again(app: Any, limit: int = 20) -> int:
    """Look at chords whose time has come: their last member may have died before it could look.

    Returns:
        how many were settled.
    Raises:
        DatabaseError, StoreUnavailable: a store is away; call again.
    """
    using = router.db_for_write(Chord)
    settled = 0
    due = Chord.objects.using(using).filter(look_at__lte=timezone.now()).order_by("look_at")
    for chord in due[:limit]:
        # First: several relays do not look at one chord at the same time, and a chord that cannot be looked at waits.
        taken = Chord.objects.using(using).filter(pk=chord.pk, looks=chord.looks)
        if taken.update(looks=chord.looks + 1, look_at=_later(chord.looks + 1)):
            settled += look(app, chord.group_id, json.loads(chord.body))
    return settled


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
        counter.save(using=using, update_fields=["sub_tasks"])
        Chord.objects.using(using).filter(group_id=group_id).exclude(body="").update(look_at=_later(0), looks=0)
    _expect(group_id, [new_task_id], [old_task_id])


def renamed(value: Any, old: str, new: str) -> Any:
    """Return a nested structure of lists with one string replaced."""
    if isinstance(value, list | tuple):
        return [renamed(item, old, new) for item in value]
    return new if value == old else value


def _expect(group_id: str, out: Sequence[str], back: Sequence[str] = ()) -> None:
    try:
        chord_sets().change(group_id, out=out, back=back)
    except StoreUnavailable as error:
        # The first member that returns finds no set, looks, and makes it again.
        logger.warning("Members of chord %s are not counted: %s", group_id, error)


def _ended(group_id: str, ids: Sequence[str]) -> dict[str, str] | None:
    """Return the states of all members if all have ended. Else note who is out, and return None."""
    known = dict(reading.states(store(), ids))
    out = [task_id for task_id in ids if known.get(task_id) not in states.READY_STATES]
    if out:
        # First noted, then looked at again: who returns in between is seen by the one or the other.
        _expect(group_id, out)
        known.update(reading.states(store(), out))
        back = [task_id for task_id in out if known.get(task_id) in states.READY_STATES]
        if len(back) < len(out):
            _expect(group_id, (), back)
            return None
    try:
        chord_sets().forget(group_id)
    except StoreUnavailable as error:
        logger.warning("The set of chord %s stays in Redis: %s", group_id, error)
    return {task_id: known[task_id] for task_id in ids}


def _leaves(result: Any) -> Iterator[str]:
    """Return the ids of the tasks that a header's result stands for."""
    if isinstance(result, GroupResult):
        for member in result.results:
            yield from _leaves(member)
    else:
        yield result.id


def _later(looks: int) -> Any:
    return timezone.now() + timedelta(seconds=min(LOOKS[0] * 2.0 ** min(looks, 20), LOOKS[1]))


def _fail(app: Any, callback: Any, failed: list[str]) -> None:
    body_id = callback.id
    if body_id and app.backend.get_state(body_id) == states.FAILURE:
        return
    try:
        # Raised, because Celery takes the traceback from the exception under way, and there may be none.
        raise ChordError(f"Dependency {failed[0]} failed")
    except ChordError as error:
        app.backend.chord_error_from_stack(callback, error)
    for last in _ends(app, callback):
        if outer := last.options.get("chord"):
            # Celery tells nobody that a body failed in this way, so the chord around it would wait for ever.
            member_returned(app, last.options["group_id"], last.id, outer)


def _ends(app: Any, callback: Any) -> Iterator[Any]:
    """Return the tasks with which a body ends: those that a chord around it counts."""
    following = callback.options.get("chain")
    if following:
        yield from _ends(app, maybe_signature(following[0], app=app))
    elif isinstance(callback, group):
        for member in callback.tasks:
            yield from _ends(app, maybe_signature(member, app=app))
    elif isinstance(callback, _chain):
        yield from _ends(app, maybe_signature(callback.tasks[-1], app=app))
    else:
        yield callback
