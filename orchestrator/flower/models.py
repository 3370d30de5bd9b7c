"""A permission without a table."""

from django.db import models


class Flower(models.Model):
    """Carries the permission for what Flower can do to workers and tasks. No rows, no table."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (("control_workers", "Can control workers and run any task through Flower"),)
