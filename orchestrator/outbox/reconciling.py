"""After a broker lost what it had confirmed: find messages that are nowhere, and send them again.

A row that was sent and whose end nobody knows is looked for in the broker and among the
ends that other apps keep. What is nowhere is put back to be sent, under the same id, and
relays send it like any other, in the order of its key. Repeating it changes nothing: what
was put back is not looked for, and what was sent again is there.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import redis
from django.db import transaction
from django.utils import timezone
from kombu.transport.redis import Channel

from orchestrator import conf
from orchestrator.audit.services import record
from orchestrator.celery import get_app
from orchestrator.contracts.ended import ended
from orchestrator.contracts.errors import ConfigurationError
from orchestrator.outbox import sent
from orchestrator.outbox.models import OutboxMessage
from orchestrator.outbox.writer import aliases
from orchestrator.policies.outbox import REMEMBERED, lease_of
from orchestrator.stores.redis.client import client
from orchestrator.stores.redis.leases import RedisLeases
from orchestrator.stores.redis.streams import unavailable
from orchestrator.transport import census
from orchestrator.transport.keys import Keys
from orchestrator.transport.registry import OURS

#: Seconds for which a message that was sent is left alone: its end may be on its way.
FRESH = 5.0
#: Seconds between two looks: what moved during the first is found by the second.
PAUSE = 1.0
#: Seconds that one call to the broker may take.
TIMEOUT = 10.0
#: Seconds to wait for workers to say what they run; they answer within milliseconds, but all are waited for.
PATIENCE = 1.0
#: Rows looked at together.
BATCH = 1000


class Found(StrEnum):
    """What was found of a message that was sent, and of whose end nothing was known."""

    #: It lies in the broker, or a worker runs it.
    THERE = "there"
    ENDED = "ended"
    #: It is in the broker no more, and it was begun, or was due so long ago that its start would be forgotten by now.
    #: Nobody knows how it ended: it is left alone.
    UNKNOWN = "unknown"
    LOST = "lost"


@dataclass(slots=True)
class Report:
    """How many rows were found how, and those that are lost or unknown."""

    counts: Counter[Found] = field(default_factory=Counter)
    items: list[dict[str, str]] = field(default_factory=list)
    sent_again: int = 0


def reconcile(*, dry_run: bool = False, only: Any = None, old: bool = False, by: Any = None, actor: str = "") -> Report:
    """Put messages back to be sent that were sent and are nowhere.

    Args:
        dry_run: only report.
        only: rows (a query); all rows that were sent, if None.
        old: whether what was due more than a day ago counts as lost, too, where no start of it is remembered.
        by: the user, for the audit log.

    Raises:
        ConfigurationError: the broker is not behind our transport, so nobody can look into it.
        StoreUnavailable: the broker, or the Redis of the state, cannot be asked.
        DatabaseError: a database cannot be asked.
    """
    look = _Look(old=old)
    places = aliases(conf.settings())
    sent.forget_ended(places)
    report = Report()
    for rows in [only.filter(due_at=None)] if only is not None else [_sent(alias) for alias in places]:
        # Nothing younger is judged, so what is sent while somebody looks does not seem to be lost.
        old = rows.filter(sent_at__lt=timezone.now() - timedelta(seconds=FRESH))
        suspects = _absent(old, look(_queues(rows.db)), report)
        if suspects:
            time.sleep(PAUSE)
            there = look(_queues(rows.db)) | look.running()
            absent = [row for row in suspects if row.task_id not in there]
            report.counts[Found.THERE] += len(suspects) - len(absent)
            lost = [row for some in _cut(absent) for row in _judge(some, rows.db, report, look, dry_run=dry_run)]
            if lost and not dry_run:
                report.sent_again += _put_back(lost, rows.db, by, actor)
    return report


class _Row(NamedTuple):
    pk: int
    name: str
    task_id: str
    task: str
    sent_at: datetime
    kept_until: datetime | None

    def forgotten(self) -> bool:
        """Whether a start could be so long ago that nothing of it is remembered."""
        days = timedelta(days=conf.settings().outbox_sent_days or 0)
        due = self.sent_at if self.kept_until is None else max(self.sent_at, self.kept_until - days)
        return due < timezone.now() - timedelta(seconds=REMEMBERED)


class _Look:
    """Looks into the broker, and at who began what."""

    def __init__(self, *, old: bool = False) -> None:
        self.old = old
        settings, self._url = conf.settings(), conf.broker_as_redis()
        if settings.transport != "orchestrator" or self._url.partition("://")[0] not in OURS:
            raise ConfigurationError(
                "Only a Redis broker behind this platform's own transport can be looked into "
                "(ORCHESTRATOR['TRANSPORT'] = 'orchestrator'): which messages were lost is not known here."
            )
        options = get_app().conf.broker_transport_options
        prefix = options.get("global_keyprefix", "")
        self._keys = Keys(prefix, prefix + settings.key_prefix)
        self._unacked = prefix + options.get("unacked_key", Channel.unacked_key)
        self._leases = RedisLeases(conf.state_url(), settings.key_prefix, settings.letterbox_timeout)

    def __call__(self, queues: set[str]) -> set[str]:
        """Return the ids of all tasks that have a message in the broker."""
        try:
            return census.task_ids(client(self._url, TIMEOUT), self._keys, queues, self._unacked)
        except redis.RedisError as error:
            raise unavailable(self._url, error) from error

    @staticmethod
    def running() -> set[str]:
        """Return the ids of tasks that workers run: they go on, though the broker forgot that they have them."""
        answers = get_app().control.inspect(timeout=PATIENCE).active() or {}
        return {task["id"] for tasks in answers.values() for task in tasks}

    def may_have_begun(self, row: _Row) -> bool:
        """Whether a copy of a row's message has started, or nobody could know."""
        return (row.forgotten() and not self.old) or self._leases.holder(lease_of(row.name)) is not None


def _absent(rows: Any, there: set[str], report: Report) -> list[_Row]:
    """Return the rows whose message was not seen, and count the others."""
    suspects: list[_Row] = []
    last = 0
    while some := list(rows.filter(pk__gt=last).order_by("pk").values_list(*_Row._fields)[:BATCH]):
        absent = [row for row in map(_Row._make, some) if row.task_id not in there]
        report.counts[Found.THERE] += len(some) - len(absent)
        suspects += absent
        last = some[-1][0]
    return suspects


def _judge(rows: list[_Row], alias: str, report: Report, look: _Look, *, dry_run: bool) -> list[_Row]:
    """Tell apart what is not in the broker; forget what has ended, return what is lost."""
    # What ended between the looks has told so by now.
    sent.forget_ended(aliases(conf.settings()))
    left = set(_sent(alias).filter(pk__in=[row.pk for row in rows]).values_list("pk", flat=True))
    known = ended([row.task_id for row in rows if row.pk in left])
    over = [row.pk for row in rows if row.pk not in left or row.task_id in known]
    report.counts[Found.ENDED] += len(over)
    if not dry_run:
        sent.forget(_sent(alias).filter(pk__in=over))
    lost = []
    for row in rows:
        if row.pk not in left or row.task_id in known:
            continue
        found = Found.UNKNOWN if look.may_have_begun(row) else Found.LOST
        report.counts[found] += 1
        report.items.append({"id": str(row.pk), "task_id": row.task_id, "task": row.task, "found": found.value})
        if found is Found.LOST:
            lost.append(row)
    return lost


def _put_back(lost: list[_Row], alias: str, by: Any, actor: str) -> int:
    put = 0
    with transaction.atomic(), transaction.atomic(using=alias):
        # First, so that nothing is changed that cannot be audited.
        entry = record("outbox.reconcile", by=by, actor=actor, target=alias, lost=len(lost))
        for some in _cut(lost):
            # Whoever looks at the same time finds what is put back here sent no more.
            put += _sent(alias).filter(pk__in=[row.pk for row in some]).update(due_at=timezone.now(), sent_at=None)
        if not put:
            entry.delete()
    return put


def _cut(rows: list[_Row]) -> Iterator[list[_Row]]:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _queues(alias: str) -> set[str]:
    """Return every queue that the app, or a row, knows."""
    return {*get_app().amqp.queues, *_sent(alias).order_by().values_list("queue", flat=True).distinct()}


def _sent(alias: str) -> Any:
    return OutboxMessage.objects.using(alias).filter(due_at=None)
