"""The table of effects that have taken place."""

from __future__ import annotations

from django.db import models
from django.utils import timezone

from orchestrator.contracts.keys import LONGEST_KEY


class IdempotencyRecord(models.Model):
    """One effect of a transactional task: its row was committed together with the task's own writes.

    While a task runs nobody else sees its row; who runs is told by the lease in Redis.
    """

    task = models.CharField(max_length=255)
    key = models.CharField(max_length=LONGEST_KEY)
    #: SHA-256 of the arguments; reveals none of them.
    fingerprint = models.CharField(max_length=64)
    #: What the task returned, as JSON.
    value = models.TextField(default="null")
    task_id = models.CharField(max_length=255, db_index=True)
    #: Fencing number of the lease under which it ran.
    fence = models.BigIntegerField()
    completed_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-id",)
        constraints = [models.UniqueConstraint(fields=("task", "key"), name="orchestrator_idempotency_key")]
        default_permissions = ("view",)
        permissions = [("free_key", "Can free idempotency keys")]

    def __str__(self) -> str:
        return f"{self.task} {self.key}"
