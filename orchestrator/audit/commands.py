"""Whom a command acts for: the user whose name goes into the audit log."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import CommandError


def acting(name: str, permission: str, what: str, *, refused: int) -> Any:
    """Return the user of ``--by``, None where no name is given; nobody stands there for what they may not do.

    Args:
        permission: ``app.codename`` that they need.
        what: what it lets them do, for the message.
        refused: exit code of a command that was refused.

    Raises:
        CommandError: there is no such user, or the user may not.
    """
    if not name:
        return None
    model = get_user_model()
    user = model._default_manager.filter(**{model.USERNAME_FIELD: name}).first()
    if user is None:
        raise CommandError(
            f"There is no user {name!r}; --by takes a username. Nothing was changed.", returncode=refused
        )
    if not user.has_perm(permission):
        raise CommandError(f"User {name!r} may not {what}. Nothing was changed.", returncode=refused)
    return user
