"""Who stands at the door, and what they may do: the side of the guard that asks Django.

Everything here blocks on the database; call it through
:class:`orchestrator.flower.database.DatabaseThreads`, never from the event loop.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest

from orchestrator.audit import services as audit


class Right(enum.StrEnum):
    """What a page or an action asks for: the name of a Django permission. Superusers hold all."""

    #: The door itself: whoever may see results may see what Flower shows. Staff only.
    VIEW = "django_celery_results.view_taskresult"
    #: Every write of Flower's own API: revoke, terminate, shut down, pool size, run a task.
    CONTROL = "orchestrator_flower.control_workers"
    LETTERS = "orchestrator_deadletters.view_deadletter"
    REDRIVE = "orchestrator_deadletters.redrive_deadletter"
    DISCARD = "orchestrator_deadletters.discard_deadletter"


@dataclass(frozen=True, slots=True)
class Visitor:
    """A logged-in Django user as the pages see it."""

    name: str
    rights: frozenset[Right]
    #: The Django user, for services that record who did it.
    user: Any

    def may(self, right: Right | str) -> bool:
        """Return whether this user holds a right; templates give its name in lower case."""
        return (right if isinstance(right, Right) else Right[right.upper()]) in self.rights


@dataclass(frozen=True, slots=True)
class Cookie:
    """The session cookie that the browser should hold from now on; empty ``value`` deletes it."""

    value: str
    #: Seconds, or None to end with the browser.
    max_age: int | None = None


def recognise(session_key: str) -> tuple[Visitor | None, Cookie | None]:
    """Return the user of a Django session, and a new cookie where Django renewed the session."""
    if not session_key:
        return None, None
    request = _request(session_key, {})
    user = auth.get_user(request)
    # A session signed with an older secret key is renewed, one with an older password is ended.
    cookie = _saved(request) if request.session.modified else None
    return _visitor(user), cookie


def log_in(
    session_key: str, username: str, password: str, meta: dict[str, str]
) -> tuple[Visitor | None, Cookie | None]:
    """Check a name and a password with Django's backends and open a Django session.

    Returns:
        ``(None, None)`` for wrong credentials; a visitor without :attr:`Right.VIEW`
        and no cookie for a user who may not come in; else both.
    """
    request = _request(session_key, meta)
    user = auth.authenticate(request, username=username, password=password)
    if user is None:
        return None, None
    visitor = _visitor(user)
    if visitor is None or not visitor.may(Right.VIEW):
        return visitor or Visitor(user.get_username(), frozenset(), user), None
    auth.login(request, user)
    cookie = _saved(request)
    audit.record("flower.login", by=user, address=meta.get("REMOTE_ADDR", ""))
    return visitor, cookie


def log_out(session_key: str, visitor: Visitor) -> Cookie:
    """End a Django session everywhere: in Flower and in the admin."""
    request = _request(session_key, {})
    request.user = visitor.user
    auth.logout(request)
    audit.record("flower.logout", by=visitor.user)
    return Cookie("")


def _request(session_key: str, meta: dict[str, str]) -> HttpRequest:
    """Return a Django request that holds what backends and signal receivers look at."""
    request = HttpRequest()
    request.method = "POST"
    request.META.update(meta)
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key or None)
    return request


def _saved(request: HttpRequest) -> Cookie:
    session = request.session
    if session.is_empty():
        return Cookie("")
    session.save()
    age = None if session.get_expire_at_browser_close() else session.get_expiry_age()
    return Cookie(session.session_key or "", age)


def _visitor(user: Any) -> Visitor | None:
    """Return the rights of an active staff user; nobody else has any, not even the door's."""
    if not (user.is_authenticated and user.is_active):
        return None
    held = frozenset(right for right in Right if user.has_perm(right.value)) if user.is_staff else frozenset()
    return Visitor(user.get_username(), held if Right.VIEW in held else frozenset(), user)
