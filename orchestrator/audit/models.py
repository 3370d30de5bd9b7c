"""The audit table."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone


class AuditEntry(models.Model):
    """One state change by a person or a command. Rows are only ever added."""

    at = models.DateTimeField("time", default=timezone.now, db_index=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    #: Name as it was then; "command line" where no user stands behind it.
    actor = models.CharField(max_length=200)
    #: ``noun.verb``, such as ``deadletter.redrive``.
    action = models.CharField(max_length=100, db_index=True)
    target = models.CharField(max_length=200, blank=True, db_index=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "audit entries"
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.actor}: {self.action} {self.target}".rstrip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert only.

        Raises:
            TypeError: the row exists already.
        """
        if self.pk is not None:
            raise TypeError("Audit entries are never changed; add another one.")
        super().save(*args, **kwargs)
