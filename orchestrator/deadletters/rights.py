"""Who may do what with dead letters, one permission per act."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

APP = "orchestrator_deadletters"


def may(user: Any, act: str) -> bool:
    """Return whether ``user`` may ``redrive``, ``edit``, ``discard``, ``view`` letters or see a ``payload``.

    The edit form shows and sends arguments, so editing needs the payload permission too.
    """
    if act == "payload":
        return bool(user.has_perm(f"{APP}.view_payload"))
    allowed = user.has_perm(f"{APP}.{act}_deadletter")
    return bool(allowed and user.has_perm(f"{APP}.view_payload")) if act == "edit" else bool(allowed)


class Rights:
    """Permission methods by the names that the admin's ``@action(permissions=…)`` looks for."""

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        """Whether this user may redrive."""
        return may(request.user, "view") and may(request.user, "redrive")

    def has_edit_permission(self, request: HttpRequest) -> bool:
        """Whether this user may redrive with edited arguments."""
        return may(request.user, "view") and may(request.user, "edit")

    def has_discard_permission(self, request: HttpRequest) -> bool:
        """Whether this user may discard."""
        return may(request.user, "view") and may(request.user, "discard")

    def has_payload_permission(self, request: HttpRequest) -> bool:
        """Whether this user may see arguments."""
        return may(request.user, "view") and may(request.user, "payload")

    def has_letters_permission(self, request: HttpRequest) -> bool:
        """Whether this user may look at the inbox."""
        return may(request.user, "view")

    def rights(self, request: HttpRequest) -> dict[str, bool]:
        """Return all of them, for templates."""
        return {
            act: getattr(self, f"has_{act}_permission")(request) for act in ("redrive", "edit", "discard", "payload")
        }

    def demand(self, request: HttpRequest, act: str) -> None:
        """Refuse with 403.

        Raises:
            PermissionDenied: the user may not.
        """
        if not getattr(self, f"has_{act}_permission")(request):
            raise PermissionDenied(f"{request.user} may not {act} dead letters.")
