"""Writing audit entries."""

from __future__ import annotations

from typing import Any

from orchestrator.audit.models import AuditEntry

#: Actor of what no logged-in person did.
COMMAND_LINE = "command line"


def record(action: str, *, by: Any = None, target: str = "", actor: str = "", **details: Any) -> AuditEntry:
    """Add an entry in the caller's transaction.

    Args:
        action: ``noun.verb``.
        by: the Django user, or None.
        target: what it was done to, as a short id.
        actor: name to use where there is no user.
        details: JSON-able facts, never arguments of a task.
    """
    name = by.get_username() if by is not None else (actor or COMMAND_LINE)
    return AuditEntry.objects.create(
        action=action, user=by if by is not None else None, actor=name[:200], target=target[:200], details=details
    )
