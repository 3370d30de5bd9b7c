"""Rows of the outbox. A row exists until its message is settled, or, if the settings say so, until it was sent."""

from __future__ import annotations

import secrets
from typing import ClassVar

from django.db import models
from django.utils import timezone

from orchestrator.contracts import codec
from orchestrator.contracts.message import Parcel

#: Rows whose messages were not sent.
WAITING = models.Q(due_at__isnull=False)


def new_name() -> str:
    """Return the name under which all copies of one row's message are one."""
    return secrets.token_hex(12)


class OutboxMessage(models.Model):
    """One message, complete, that is to be sent once its transaction has committed.

    ``payload`` is the only column that holds arguments. Rows are numbered in the order
    in which they were published.
    """

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=32, unique=True, default=new_name, editable=False)
    task = models.CharField(max_length=255)
    task_id = models.CharField(max_length=255, db_index=True)
    queue = models.CharField(max_length=255, blank=True)
    args_repr = models.TextField(blank=True)
    kwargs_repr = models.TextField(blank=True)
    payload = models.TextField(editable=False)
    #: Body of the ``task-sent`` event, redacted by whoever built it.
    event = models.JSONField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    #: From then on a relay may send it; None once it was sent.
    due_at = models.DateTimeField(null=True)
    #: When it was sent last, for all that is known.
    sent_at = models.DateTimeField(null=True, blank=True)
    #: Until when it is kept after that while nobody knows how it ended; None for ever.
    kept_until = models.DateTimeField(null=True, blank=True, editable=False)
    #: The relay that has it, until ``due_at``.
    claim = models.CharField(max_length=32, blank=True, db_index=True, editable=False)
    #: What the message claims to be the one of, see deduplication; its digest.
    lock = models.CharField(max_length=64, null=True, unique=True, editable=False)
    #: Rows of one key are sent in the order of their numbers; empty for none.
    ordering_key = models.CharField(max_length=255, blank=True)
    #: Of a message that the broker may have taken: what settles it, see the transport's sender.
    doubt = models.CharField(max_length=255, blank=True, editable=False)
    #: Sendings that failed or were cut off.
    attempts = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)

    objects: ClassVar[models.Manager[OutboxMessage]] = models.Manager()

    class Meta:
        ordering = ("id",)
        # Of what waits to be sent, so that what was sent slows nobody down.
        indexes = (
            models.Index(fields=("id",), condition=WAITING, name="orchestrator_outbox_waiting"),
            models.Index(
                fields=("ordering_key", "id"),
                condition=WAITING & ~models.Q(ordering_key=""),
                name="orchestrator_outbox_order",
            ),
        )
        default_permissions = ("view",)
        permissions = (
            ("reconcile_outboxmessage", "Can look for messages that were sent, and send again what is lost"),
        )
        verbose_name = "message"

    def __str__(self) -> str:
        return f"{self.task} {self.task_id}"

    @property
    def parcel(self) -> Parcel:
        """The message.

        Raises:
            PayloadUnreadable: the column cannot be read by this release.
        """
        return Parcel(self.task, self.task_id, codec.unseal(self.payload), self.event, doubt=self.doubt)
