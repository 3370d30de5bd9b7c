"""Whose look at a chord dies when the body is on its way and the chord's row not yet gone; for workers alone."""

from __future__ import annotations

import os
import signal
from typing import Any

from django.db.models.signals import pre_delete
from django.dispatch import receiver
from django_celery_results.models import ChordCounter

from tests.support import far_side

#: What the look leaves on the far side when it dies.
DIED = "look:died"


@receiver(pre_delete, sender=ChordCounter)
def _die_once(**_: Any) -> None:
    if not far_side.effects(DIED):
        far_side.record(DIED)
        os.kill(os.getpid(), signal.SIGKILL)
