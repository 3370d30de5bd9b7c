"""A task that was called off stays so: for workers that were away, were restarted, or start later.

Celery tells its workers once and they remember; here the ids are kept as well, and a
worker looks before it begins with a task, unless it has looked within the last second.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.app.control import Control
from celery.worker import state

from orchestrator.contracts.errors import StoreUnavailable

logger = logging.getLogger("orchestrator.engine")

#: Seconds between two looks.
EVERY = 1.0


class OrchestratedControl(Control):  # type: ignore[misc]  # Celery is untyped
    """Celery's remote control, whose ``revoke`` lasts."""

    def revoke(self, task_id: Any, destination: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Call off a task, or several: workers do not begin with it, also those that start later.

        Raises:
            StoreUnavailable: it could not be kept; no worker was told.
        """
        revoked = self.app.revoked
        if revoked is not None and not destination:
            revoked.add([task_id] if isinstance(task_id, str) else list(task_id))
        return super().revoke(task_id, destination, *args, **kwargs)


class _Looked:
    """When this process looked last, and what it saw."""

    at = float("-inf")
    version = -1


def look(app: Any) -> None:
    """Learn what was called off, if the last look is a second ago.

    *Fails: open. While the store is away, a worker knows what Celery told it.*
    """
    now = time.monotonic()
    if now < _Looked.at + EVERY or app.revoked is None:
        return
    _Looked.at = now
    try:
        version, ids = app.revoked.since(_Looked.version)
    except StoreUnavailable as error:
        logger.debug("Cannot look which tasks were called off: %s", error)
        return
    if version != _Looked.version:
        _Looked.version = version
        state.revoked.update(ids)
