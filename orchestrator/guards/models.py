"""Names for the admin and for permissions. There are no tables: what they name lives in Redis."""

from __future__ import annotations

from django.db import models


class DeduplicationLock(models.Model):
    """Why a call is a duplicate."""

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = [("free_lock", "Can free deduplication locks")]

    def __str__(self) -> str:
        return "deduplication lock"


class CircuitBreaker(models.Model):
    """Why tasks wait for a far side."""

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = [("control_breaker", "Can force and reset circuit breakers")]

    def __str__(self) -> str:
        return "circuit breaker"
