"""Rows of the inbox. State and its legal moves; the verbs are in ``services``."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone

from orchestrator.contracts import codec
from orchestrator.contracts.message import WireMessage
from orchestrator.contracts.outcome import Reason, Verdict


class State(models.TextChoices):
    """Where a dead letter stands. Legal moves are in :data:`MOVES`."""

    OPEN = "open", "Open"
    REDRIVING = "redriving", "Being redriven"
    REDRIVEN = "redriven", "Redriven"
    DISCARDED = "discarded", "Discarded"


#: state -> states it may move to. REDRIVING goes back to OPEN when publishing failed for certain.
MOVES: dict[str, frozenset[str]] = {
    State.OPEN: frozenset({State.REDRIVING, State.DISCARDED}),
    State.REDRIVING: frozenset({State.REDRIVEN, State.OPEN}),
    State.REDRIVEN: frozenset(),
    State.DISCARDED: frozenset(),
}


class DeadLetterQuerySet(models.QuerySet["DeadLetter"]):
    """Filters by name."""

    def open(self) -> DeadLetterQuerySet:
        """Only letters that wait for somebody."""
        return self.filter(state=State.OPEN)

    def closed_before(self, moment: datetime) -> DeadLetterQuerySet:
        """Letters handled before ``moment``."""
        return self.filter(state__in=(State.REDRIVEN, State.DISCARDED), closed_at__lt=moment)


class DeadLetter(models.Model):
    """One message that will not run again by itself, with the exact message to replay.

    ``payload`` is the only column that holds arguments; everything else, search
    text included, is redacted.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    #: What tells letters apart: the relay may see one several times, and one message may be buried twice. Its column
    #: kept the name of what it was at first.
    key = models.CharField(max_length=64, unique=True, editable=False, db_column="attempt_id")
    state = models.CharField(max_length=16, choices=State.choices, default=State.OPEN)
    verdict = models.CharField(max_length=16, choices=[(v.value, v.value) for v in Verdict])
    reason = models.CharField(max_length=32, choices=[(r.value, r.value.replace("_", " ")) for r in Reason])
    task = models.CharField(max_length=255)
    task_id = models.CharField(max_length=255, db_index=True)
    queue = models.CharField(max_length=255, blank=True)
    worker = models.CharField(max_length=255, blank=True)
    error_type = models.CharField(max_length=255, blank=True)
    error_message = models.TextField(blank=True)
    traceback = models.TextField(blank=True)
    #: Same fingerprint = same failure: task, exception class, normalised message, top own frame.
    fingerprint = models.CharField(max_length=32, db_index=True)
    args_repr = models.TextField(blank=True)
    kwargs_repr = models.TextField(blank=True)
    #: Redacted projection that searches run on, lower case.
    search = models.TextField(blank=True)
    payload = models.TextField(editable=False)
    retries = models.PositiveIntegerField(default=0)
    #: ``[{"n", "at", "worker", "error"}]``, one entry an earlier attempt.
    history = models.JSONField(default=list, blank=True)
    root_id = models.CharField(max_length=255, blank=True)
    parent_id = models.CharField(max_length=255, blank=True)
    group_id = models.CharField(max_length=255, blank=True)
    #: task_id of the dead letter that this one's message was redriven from.
    redrive_of = models.CharField(max_length=255, blank=True, db_index=True)
    published_at = models.DateTimeField(null=True, blank=True)
    died_at = models.DateTimeField(db_index=True)
    filed_at = models.DateTimeField(default=timezone.now)
    #: Set while and after redriving: the id under which it runs again.
    redriven_as = models.CharField(max_length=255, blank=True, db_index=True)
    #: ``{"args": [old, new], "kwargs": [old, new]}`` with redacted values, if edited.
    edits = models.JSONField(null=True, blank=True)
    #: Payload with edited arguments, kept until the redrive is certain; same codec.
    edited_payload = models.TextField(blank=True, editable=False)
    claimed_at = models.DateTimeField(null=True, blank=True, editable=False)
    closed_at = models.DateTimeField(null=True, blank=True)
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    #: Why it was discarded.
    note = models.TextField(blank=True)

    objects: ClassVar[models.Manager[DeadLetter]] = DeadLetterQuerySet.as_manager()

    class Meta:
        ordering = ("-died_at", "-id")
        default_permissions = ("view",)
        permissions = (
            ("redrive_deadletter", "Can redrive dead letters"),
            ("edit_deadletter", "Can edit arguments of dead letters"),
            ("discard_deadletter", "Can discard dead letters"),
            ("view_payload", "Can see arguments of dead letters"),
        )
        indexes = (
            models.Index(fields=("state", "-died_at"), name="orch_dl_state_died"),
            models.Index(fields=("state", "fingerprint"), name="orch_dl_state_print"),
            models.Index(fields=("state", "task"), name="orch_dl_state_task"),
        )

    def __str__(self) -> str:
        return f"{self.task} {self.task_id}: {self.reason}"

    @property
    def message(self) -> WireMessage:
        """The exact message.

        Raises:
            PayloadUnreadable: the column cannot be read by this release.
        """
        return codec.unseal(self.payload)
