"""Into the outbox: a row in the caller's transaction, sent when that commits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta

from django.db import IntegrityError, connections, router, transaction
from django.utils import timezone

from orchestrator.conf import Settings
from orchestrator.contracts import codec
from orchestrator.contracts.deduplication import Claim
from orchestrator.contracts.errors import InvalidOption, UnknownOption
from orchestrator.contracts.message import HEADER, Parcel
from orchestrator.outbox import sending, sent, together, turns
from orchestrator.outbox.models import OutboxMessage

#: Rows of one statement.
ROWS = 500
#: Tries to insert a row whose claim another row had a moment ago.
TRIES = 3


class DatabaseOutbox:
    """The outbox in the project's databases (:class:`~orchestrator.contracts.ports.Outbox`)."""

    def __init__(self, settings: Settings) -> None:
        self.fallback = settings.outbox_fallback
        self.aliases = aliases(settings)
        self._settings = settings
        self._grace = timedelta(seconds=settings.outbox_grace_seconds)

    def place(self, choice: bool | str | None) -> str | None:
        """Return the database in whose open transaction a message has to wait, None for none.

        A message that meets no transaction is kept as well while the broker is known to be away and the fallback
        is on: to try it would hold the caller. Of several databases with an open transaction the first that the
        setting lists is taken.

        Raises:
            UnknownOption: the outbox has no such database.
            InvalidOption: the choice is of another kind.
        """
        if choice is None:
            place = next((alias for alias in self.aliases if in_transaction(alias)), None)
            kept = place is None and self.fallback and sending.resting() and not _in_event_loop()
            return self.aliases[0] if kept else place
        if choice is False:
            return None
        if choice is True:
            return next((alias for alias in self.aliases if in_transaction(alias)), self.aliases[0])
        if not isinstance(choice, str):
            raise InvalidOption(f"outbox={choice!r}: give True, False or the alias of a database.")
        if choice not in self.aliases:
            raise UnknownOption.among(choice, self.aliases, "outbox=, a database of ORCHESTRATOR['OUTBOX']")
        return choice

    def keep(self, parcel: Parcel, place: str) -> str | None:
        """Insert a row and have it sent when the transaction commits; at once if none is open.

        Where another row has the same claim, none is inserted. A transaction that is still open may have it: then
        this waits until that has ended.

        Returns:
            the other row's task id.

        Raises:
            DatabaseError: the row could not be written; nothing is sent.
        """
        row = self._row(parcel, self._grace)
        if row.ordering_key:
            with transaction.atomic(using=place, savepoint=False):
                turns.hold([row.ordering_key], place)
                first = _insert(row, place)
        else:
            first = _insert(row, place)
        if first is None and (connections[place].autocommit or connections[place].in_atomic_block):
            sending.at_commit(row, place)
        # Else the caller commits by hand, which tells nobody: a relay sends it.
        return first

    def keep_many(self, parcels: Sequence[Parcel], place: str) -> None:
        """Insert rows, in order, and have them sent together when the transaction commits; at once if none is open.

        Raises:
            DatabaseError: they could not be written; nothing is sent.
        """
        claim = together.claim()
        rows = [self._row(parcel, self._grace) for parcel in parcels]
        for row in rows:
            row.claim = claim
        with transaction.atomic(using=place, savepoint=False):
            turns.hold([row.ordering_key for row in rows], place)
            OutboxMessage.objects.using(place).bulk_create(rows, batch_size=ROWS)
        if connections[place].autocommit or connections[place].in_atomic_block:
            together.at_commit(claim, place)

    def rescue(self, parcel: Parcel, error: BaseException) -> None:
        """Insert a row that relays send: the broker did not take it.

        Raises:
            DatabaseError: the row could not be written either; the message is not kept.
            Exception: ``error`` itself, in an event loop, where Django's models must not be used.
        """
        if _in_event_loop():
            raise error
        sending.rest()
        row = self._row(parcel)
        # It holds its lock already.
        row.lock = None
        row.error = f"{type(error).__name__}: {error}"[: sending.ERROR_LENGTH]
        row.attempts = 1
        row.save(using=self.aliases[0], force_insert=True)

    def _row(self, parcel: Parcel, grace: timedelta = timedelta()) -> OutboxMessage:
        headers = parcel.message.headers
        claim = Claim.of(parcel.task, headers.get(HEADER) or {})
        now = timezone.now()
        return OutboxMessage(
            task=parcel.task,
            task_id=parcel.task_id,
            queue=parcel.message.queue or parcel.message.routing_key,
            args_repr=headers.get("argsrepr") or "",
            kwargs_repr=headers.get("kwargsrepr") or "",
            payload=codec.seal(parcel.message),
            event=parcel.event,
            ordering_key=parcel.ordering_key,
            doubt=parcel.doubt,
            created_at=now,
            due_at=now + grace,
            kept_until=sent.until(parcel, self._settings, now),
            lock=claim.digest if claim is not None and not claim.newest else None,
        )


def _insert(row: OutboxMessage, place: str) -> str | None:
    """Insert a row; return the task id of the one that has its claim, if there is one."""
    if row.lock is None:
        row.save(using=place, force_insert=True)
        return None
    same = OutboxMessage.objects.using(place).filter(lock=row.lock).values_list("task_id", flat=True)
    for _ in range(TRIES):
        try:
            with transaction.atomic(using=place):
                row.save(using=place, force_insert=True)
            return None
        except IntegrityError:
            first = same.first()
            if first is not None:
                return first
            # Sent, and gone, meanwhile.
    # Whether it is a duplicate will be known when it is sent.
    row.lock = None
    row.save(using=place, force_insert=True)
    return None


def aliases(settings: Settings) -> tuple[str, ...]:
    """Return the databases that the outbox lies in; while it is off, the one where rows may be left from before."""
    where = settings.outbox
    if isinstance(where, str):
        return (where,)
    if isinstance(where, tuple):
        return where
    return (router.db_for_write(OutboxMessage),)


def in_transaction(alias: str) -> bool:
    """Return whether this thread has a transaction open on a database; asks no server."""
    connection = connections[alias]
    if connection.in_atomic_block:
        return True
    # Autocommit switched off by hand: every statement is part of some transaction.
    return connection.connection is not None and not connection.autocommit


def _in_event_loop() -> bool:
    """Whether Django would refuse its models here, by Django's own rule."""
    if os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"):
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
