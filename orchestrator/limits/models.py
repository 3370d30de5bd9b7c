"""Limits that a person made other than declared."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class LimitChange(models.Model):
    """One limit that is not as its tasks declare it. Workers read it in Redis; a relay repairs that copy."""

    name = models.CharField(max_length=255, unique=True)
    value = models.CharField(
        max_length=32, help_text='A rate such as "100/m", or a number of slots. 0 stops all starts.'
    )
    changed_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager[LimitChange]] = models.Manager()

    class Meta:
        ordering = ("name",)
        verbose_name = "limit change"

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"
