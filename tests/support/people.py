"""Django users with the permissions that a test is about."""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission

from tests.support.inbox import PASSWORD

__all__ = ["PASSWORD", "person"]


def person(name: str, *permissions: str, staff: bool = True, superuser: bool = False) -> Any:
    """Return a new user who holds exactly ``app_label.codename`` permissions."""
    user = get_user_model().objects.create_user(name, password=PASSWORD, is_staff=staff, is_superuser=superuser)
    for permission in permissions:
        label, _, codename = permission.partition(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=label, codename=codename))
    return user
