"""Records that commit in the transaction of the task's own writes, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, InterfaceError, OperationalError, connections, router, transaction
from django.utils import timezone

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.idempotency import Completed, Effect
from orchestrator.idempotency.models import IdempotencyRecord
from orchestrator.stores.redis.idempotency import decoded, encoded


class AlreadyThere(Exception):
    """Somebody committed a record of this effect first; undoes what was written here."""


class DatabaseRecords:
    """Records in the database (:class:`~orchestrator.contracts.idempotency.TransactionalRecords`)."""

    def run(self, effect: Effect, fence: int, body: Callable[[], Any]) -> tuple[bool, Completed]:
        """Run ``body`` and record its value in one transaction, unless a record is there.

        The row is inserted before the body runs: whoever overlaps waits at the unique
        key until the first transaction has ended, even if every lease was lost.

        Raises:
            StoreUnavailable: the connection broke; either nothing is committed, or all is and the record tells.
            EncodeError: the value is not JSON; nothing is committed.
            BaseException: what the body raises; nothing is committed.
        """
        using = router.db_for_write(IdempotencyRecord)
        try:
            with transaction.atomic(using=using):
                row = _open(effect, fence, using)
                if row is None:
                    raise AlreadyThere
                value = body()
                row.value = encoded(value)
                row.completed_at = timezone.now()
                row.expires_at = row.completed_at + timedelta(seconds=effect.ttl)
                row.save(using=using, update_fields=("value", "completed_at", "expires_at"))
            return True, Completed(effect.fingerprint, value)
        except AlreadyThere:
            return False, _recorded(effect, using)
        except (OperationalError, InterfaceError) as error:
            if connections[using].is_usable():
                raise
            connections[using].close()
            raise StoreUnavailable(
                f"The database went away while task {effect.task}[{effect.task_id}] ran in its transaction "
                f"({type(error).__name__}). Nothing is lost: the task runs again unless its record was committed."
            ) from error


def _open(effect: Effect, fence: int, using: str) -> IdempotencyRecord | None:
    """Insert the row of an effect; None if it took place before."""
    rows = IdempotencyRecord.objects.using(using).filter(task=effect.task, key=effect.key)
    now = timezone.now()
    found = rows.first()
    if found is not None:
        if found.expires_at > now:
            return None
        # Its time is over, and retention has not come by yet.
        rows.filter(expires_at__lte=now).delete()
    try:
        with transaction.atomic(using=using):
            return IdempotencyRecord.objects.using(using).create(
                task=effect.task,
                key=effect.key,
                fingerprint=effect.fingerprint,
                task_id=effect.task_id,
                fence=fence,
                completed_at=now,
                expires_at=now + timedelta(seconds=effect.ttl),
            )
    except IntegrityError:
        return None


def _recorded(effect: Effect, using: str) -> Completed:
    row = IdempotencyRecord.objects.using(using).filter(task=effect.task, key=effect.key).first()
    if row is None:
        raise StoreUnavailable(f"The record of {effect.task} {effect.key!r} went away while it was looked at.")
    return Completed(row.fingerprint, decoded(row.value))
