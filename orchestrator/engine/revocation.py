"""A task that was called off stays so: for workers that were away, were restarted, or start later.

Celery tells its workers once and they remember; here the ids, or the stamps, are kept as
well. On our transport a claim looks for them, so no message that is claimed later starts.
On others a worker looks before it begins with a task, unless it has looked within the last
second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from celery.app.control import Control
from celery.utils.functional import maybe_list
from celery.worker import state

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.contracts.ports import Stamp
from orchestrator.transport import office, revoked
from orchestrator.transport.transport import Transport

logger = logging.getLogger("orchestrator.engine")

#: Seconds between two looks on other transports.
EVERY = 1.0
#: Commands that call tasks off, whoever sends them: a result object, this class, ``celery control``, Flower.
COMMANDS = ("revoke", "terminate")
#: The one that calls off what bears a stamp.
BY_STAMPS = "revoke_by_stamped_headers"


class OrchestratedControl(Control):  # type: ignore[misc]  # Celery is untyped
    """Celery's remote control, whose ``revoke`` and ``revoke_by_stamped_headers`` last."""

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Any = None,
        connection: Any = None,
        **options: Any,
    ) -> Any:
        """Send a command to workers; what it calls off is kept first, whichever workers are told.

        *Fails: closed. What cannot be kept is told to nobody.*

        Raises:
            EncodeError: JSON cannot hold a stamp.
            StoreUnavailable: it could not be kept; doing it again is safe.
        """
        if command in COMMANDS:
            named = (arguments or {}).get("task_id") or options.get("task_id")
            self._keep([str(one) for one in maybe_list(named) or ()], [], connection)
        elif command == BY_STAMPS:
            self._keep([], stamps_in((arguments or {}).get("headers") or options.get("headers")), connection)
        return super().broadcast(command, arguments, destination, connection, **options)

    def _keep(self, ids: list[str], stamps: list[Stamp], connection: Any) -> None:
        if not ids and not stamps:
            return
        with self.app.connection_or_acquire(connection) as used:
            if isinstance(used.transport, Transport):
                revoked.keep(used, ids, stamps)
                return
        store = self.app.revoked
        if store is not None:
            store.add(ids, stamps)


def stamps_in(headers: Any) -> list[Stamp]:
    """Return the stamps that a command names: by header, or, from a command line, as ``header=stamp``."""
    if isinstance(headers, list):
        return [(header, value) for header, equals, value in (one.partition("=") for one in headers) if equals]
    return [(str(header), value) for header, values in (headers or {}).items() for value in maybe_list(values) or ()]


def bears(stamps: Mapping[str, Any], wanted: Iterable[Stamp]) -> bool:
    """Whether a task that bears these stamps is meant."""
    return any(value in (maybe_list(stamps.get(header)) or ()) for header, value in wanted)


def refuse_what_was_called_off() -> None:
    """Let this worker end claimed messages whose tasks were called off: Celery does, if it knows the id or stamp."""
    revoked.refuse_with(state.revoked.update, _refuse_stamps)


def _refuse_stamps(stamps: Iterable[Stamp]) -> None:
    """Have Celery end what bears one of these stamps."""
    known = state.revoked_stamps
    for header, value in stamps:
        values = maybe_list(known.get(header)) or []
        if value not in values:
            known[header] = [*values, value]


class _Looked:
    """When this process looked last, and what it saw."""

    at = float("-inf")
    version = ""


def look(app: Any) -> None:
    """Learn what was called off, if the last look is a second ago and nobody looks as messages are claimed.

    *Fails: open. While the store is away, a worker knows what Celery told it.*
    """
    now = time.monotonic()
    if now < _Looked.at + EVERY or office.in_use() or app.revoked is None:
        return
    _Looked.at = now
    try:
        version, ids, stamps = app.revoked.since(_Looked.version)
    except StoreUnavailable as error:
        logger.debug("Cannot look which tasks were called off: %s", error)
        return
    if version != _Looked.version:
        _Looked.version = version
        state.revoked.update(ids)
        _refuse_stamps(stamps)
