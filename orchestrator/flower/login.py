"""Logging in and out at Flower itself, with Django's users, backends and sessions.

Cookies know no ports, so a session of the Django site on the same host opens
Flower and the other way round. A link to the site is there for projects whose
users log in otherwise (single sign-on).
"""

from __future__ import annotations

import logging
from typing import Any

from django.conf import settings as django_settings
from django.utils.http import url_has_allowed_host_and_scheme
from flower.views import BaseHandler
from tornado.web import RequestHandler

from orchestrator.flower import access
from orchestrator.flower.access import Right
from orchestrator.flower.guard import LOOKUP_SECONDS, SAFE_METHODS, Guard

logger = logging.getLogger(__name__)


class LoginHandler(Guard, BaseHandler):  # type: ignore[misc]
    """The login page. Stands on its own: it needs nothing of Flower's templates."""

    async def prepare(self) -> None:
        """Let everybody see the page; a write still needs this page's token."""
        self.current_user = await self.recognise()
        if self.request.method not in SAFE_METHODS:
            self.refuse_forgery()

    async def get(self) -> None:
        """Show the form, or go on where somebody is logged in already."""
        if self.current_user and self.visitor.may(Right.VIEW):
            self.redirect(self.target())
            return
        self.show("" if self.current_user is None else self.not_enough(self.visitor.name))

    async def post(self) -> None:
        """Check name and password."""
        name = self.get_body_argument("username", "").strip()
        visitor, cookie = await self.parts.lookups.run(
            LOOKUP_SECONDS,
            access.log_in,
            self.get_cookie(django_settings.SESSION_COOKIE_NAME) or "",
            name,
            self.get_body_argument("password", "", strip=False),
            {
                "REMOTE_ADDR": self.request.remote_ip or "",
                "HTTP_USER_AGENT": self.request.headers.get("User-Agent", ""),
            },
        )
        if visitor is None:
            logger.warning("Flower refused a login as %r from %s.", name[:150], self.request.remote_ip)
            self.set_status(403)
            self.show("Name and password do not match an active user.")
        elif cookie is None:
            logger.warning(
                "Flower refused a login to %s: no staff user, or no permission %s.", visitor.name, Right.VIEW
            )
            self.set_status(403)
            self.show(self.not_enough(visitor.name))
        else:
            self.keep(cookie)
            self.redirect(self.target(), status=303)

    def show(self, problem: str) -> None:
        """Render the form."""
        RequestHandler.render(
            self,
            "login.html",
            problem=problem,
            target=self.target(),
            web_url=self.parts.web_url,
        )

    def target(self) -> str:
        """Return the page to go to: one of ours, whatever the query says."""
        wanted = self.get_query_argument("next", "") or self.get_body_argument("next", "")
        ours = wanted.startswith("/") and url_has_allowed_host_and_scheme(wanted, allowed_hosts=None)
        return wanted if ours else str(self.reverse_url("main"))

    @staticmethod
    def not_enough(name: str) -> str:
        """Return what a user without access needs."""
        return f"{name} may not use Flower: it is for staff users with the permission {Right.VIEW}."


class LogoutHandler(Guard, BaseHandler):  # type: ignore[misc]
    """Ends the Django session, in the admin too. A POST, so that no foreign page can do it."""

    async def prepare(self) -> None:
        """Anybody who is logged in may log out."""
        self.current_user = await self.recognise()
        if self.request.method not in SAFE_METHODS:
            self.refuse_forgery()

    async def get(self) -> None:
        """Old links to Flower's logout lead home."""
        self.redirect(self.reverse_url("main"))

    async def post(self) -> None:
        """Log out."""
        if self.current_user is not None:
            key: Any = self.get_cookie(django_settings.SESSION_COOKIE_NAME)
            self.keep(await self.parts.lookups.run(LOOKUP_SECONDS, access.log_out, key, self.visitor))
        self.redirect(self.reverse_url("login"), status=303)
