"""What the platform knows of runs beside django-celery-results' tables."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone


class Chord(models.Model):
    """A chord whose body has not started: what its row of django-celery-results has no room for."""

    group_id = models.CharField(max_length=255, unique=True)
    #: The body's signature, as JSON; empty for chords of earlier releases. Holds arguments.
    body = models.TextField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)
    #: From then on a relay looks whether all members have ended; None for a chord that failed.
    look_at = models.DateTimeField(null=True, db_index=True)
    #: Looks of relays so far.
    looks = models.PositiveIntegerField(default=0)

    objects: ClassVar[models.Manager[Chord]] = models.Manager()

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.group_id


class Attempt(models.Model):
    """One attempt at a task that did not simply succeed: it was retried, put off, or ended otherwise.

    Redacted: it holds no arguments, and its error is what the dead letter shows.
    """

    id = models.BigAutoField(primary_key=True)
    #: Named by the worker; the dead letter of the attempt has the same.
    attempt_id = models.CharField(max_length=64, unique=True)
    task = models.CharField(max_length=255)
    task_id = models.CharField(max_length=255, db_index=True)
    #: Counted from 0; an attempt that was put off counts no retry.
    retries = models.PositiveIntegerField(default=0)
    verdict = models.CharField(max_length=20)
    reason = models.CharField(max_length=30, blank=True)
    error_type = models.CharField(max_length=255, blank=True)
    error_message = models.TextField(blank=True)
    traceback = models.TextField(blank=True)
    worker = models.CharField(max_length=255, blank=True)
    queue = models.CharField(max_length=255, blank=True)
    published_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(db_index=True)

    objects: ClassVar[models.Manager[Attempt]] = models.Manager()

    class Meta:
        ordering = ("-id",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.task} {self.task_id} {self.verdict}"
