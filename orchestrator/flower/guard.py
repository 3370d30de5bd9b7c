"""The door: every request of every handler passes it, Flower's own included.

Order of a request: user, XSRF and origin, permission, audit entry, action. The
user comes first so that whoever is refused is refused by name.
"""

from __future__ import annotations

import hmac
import logging
import re
from typing import Any, ClassVar, Protocol, cast
from urllib.parse import urlencode, urlsplit

from django.conf import settings as django_settings
from tornado.web import HTTPError, RequestHandler

from orchestrator.audit import services as audit
from orchestrator.conf import settings
from orchestrator.flower import access
from orchestrator.flower.access import Cookie, Right, Visitor
from orchestrator.flower.database import DatabaseThreads

logger = logging.getLogger(__name__)

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
#: Seconds that the database may take to say who somebody is.
LOOKUP_SECONDS = 10.0
#: Arguments of Flower's control API that an audit entry keeps; arguments of tasks are not among them.
AUDITED_ARGUMENTS = ("n", "min", "max", "queue", "terminate", "signal", "soft", "hard", "ratelimit", "workername")


class Parts(Protocol):
    """What the application lends to its handlers; see :class:`orchestrator.flower.app.StockFlower`."""

    lookups: DatabaseThreads
    verbs: DatabaseThreads
    web_url: str


class Guard(RequestHandler):
    """Mixin that goes in front of a handler class.

    Replaces ``prepare`` of Flower's API handlers, which would let anybody in when
    ``FLOWER_UNAUTHENTICATED_API`` is set.
    """

    #: What reading and writing through this handler need. The default for whatever Flower may add one day.
    to_read: ClassVar[Right] = Right.VIEW
    to_write: ClassVar[Right] = Right.CONTROL
    #: Whether a POST changes something; False for the one that only carries a long query.
    writes: ClassVar[bool] = True
    #: Whether the guard leaves the audit entry; False where a service does, with more to tell.
    audits: ClassVar[bool] = True
    #: Whether this request was refused.
    refused = False

    @property
    def visitor(self) -> Visitor:
        """The user of this request; only behind the door."""
        return cast(Visitor, self.current_user)

    @property
    def parts(self) -> Parts:
        """Threads and settings of the application."""
        return cast(Parts, self.application)

    def set_default_headers(self) -> None:
        """Replace Flower's, which may open the API to every origin."""
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Content-Security-Policy", "frame-ancestors 'none'; form-action 'self'; base-uri 'none'")
        self.set_header("Cache-Control", "no-store")

    def get_current_user(self) -> None:
        """Know nobody before ``prepare`` has asked; Flower's own answers True where it has no login."""
        return

    def check_xsrf_cookie(self) -> None:
        """Do nothing yet: Tornado calls this before ``prepare``, when nobody knows who is asking."""

    async def prepare(self) -> None:
        """Let the request through, or end it."""
        self.current_user = await self.recognise()
        if self.current_user is None:
            self.turn_away()
            return
        reading = self.request.method in SAFE_METHODS
        if not reading:
            self.refuse_forgery()
        self.require(Right.VIEW)
        self.require(self.to_read if reading or not self.writes else self.to_write)
        if not reading and self.writes and self.audits:
            await self.record(self.action)

    async def recognise(self) -> Visitor | None:
        """Return the user of the Django session that the browser holds."""
        key = self.get_cookie(django_settings.SESSION_COOKIE_NAME) or ""
        visitor, cookie = await self.parts.lookups.run(LOOKUP_SECONDS, access.recognise, key)
        self.keep(cookie)
        return visitor

    def turn_away(self) -> None:
        """Send an anonymous reader to the login page; answer programs with 401.

        Raises:
            HTTPError: 401 for scripts, 403 for a write.
        """
        if self.request.method not in SAFE_METHODS:
            self.refuse(403, "Log in first.")
        background = self.request.headers.get("X-Requested-With") == "XMLHttpRequest"
        if background or "/api/" in self.request.path or self.request.method != "GET":
            self.refuse(401, "Log in first.")
        self.redirect(f"{self.reverse_url('login')}?{urlencode({'next': self.request.uri or '/'})}")

    def refuse_forgery(self) -> None:
        """Let only pages of this very origin write, and only with the token of this browser.

        Raises:
            HTTPError: 403.
        """
        site, origin = self.request.headers.get("Sec-Fetch-Site"), self.request.headers.get("Origin")
        if site and site != "same-origin":
            self.refuse(403, "Cross-site request refused.")
        if origin and urlsplit(origin).netloc.lower() != self.request.host.lower():
            self.refuse(403, "Cross-origin request refused.")
        try:
            # Tornado's own check: Flower's would wave requests with basic auth through.
            RequestHandler.check_xsrf_cookie(self)
        except HTTPError as error:
            self.refuse(403, f"XSRF check failed: {error.get_message()}. Reload the page and try again.")

    def require(self, right: Right) -> None:
        """Raise 403 unless the user holds a right."""
        if not self.visitor.may(right):
            self.refuse(403, f"This needs the permission {right.value}, which {self.visitor.name} does not have.")

    def refuse(self, status: int, why: str) -> None:
        """Log a refusal with the user's name and raise it.

        Raises:
            HTTPError: always.
        """
        who = self.current_user.name if self.current_user else "anonymous"
        logger.warning("Flower refused %s %s to %s: %s", self.request.method, self.request.path, who, why)
        self.refused = True
        raise HTTPError(status, why)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Leave out what :meth:`refuse` has logged with more in it."""
        if not self.refused:
            super().log_exception(typ, value, tb)

    @property
    def action(self) -> str:
        """Name of this handler's action in the audit, such as ``flower.worker_shut_down``."""
        return "flower." + re.sub(r"(?<!^)(?=[A-Z])", "_", getattr(self, "flower_name", type(self).__name__)).lower()

    async def record(self, action: str, **details: Any) -> None:
        """Add an audit entry; an action that cannot be recorded is not done.

        Raises:
            HTTPError: 503 if the entry cannot be written.
        """
        given = {name: self.get_arguments(name)[-1] for name in AUDITED_ARGUMENTS if self.get_arguments(name)}
        await self.parts.lookups.run(
            LOOKUP_SECONDS,
            audit.record,
            action,
            by=self.visitor.user,
            target=" ".join(self.path_args),
            **given,
            **details,
        )

    def keep(self, cookie: Cookie | None) -> None:
        """Give the browser a session cookie with the attributes of Django's own."""
        if cookie is None:
            return
        name, domain = django_settings.SESSION_COOKIE_NAME, django_settings.SESSION_COOKIE_DOMAIN
        if not cookie.value:
            self.clear_cookie(name, path=django_settings.SESSION_COOKIE_PATH, domain=domain)
            return
        flags: dict[str, Any] = {} if cookie.max_age is None else {"max_age": cookie.max_age}
        if django_settings.SESSION_COOKIE_SAMESITE:
            flags["samesite"] = django_settings.SESSION_COOKIE_SAMESITE
        self.set_cookie(
            name,
            cookie.value,
            domain=domain,
            path=django_settings.SESSION_COOKIE_PATH,
            secure=django_settings.SESSION_COOKIE_SECURE,
            httponly=django_settings.SESSION_COOKIE_HTTPONLY,
            **flags,
        )

    def render(self, template_name: str, **kwargs: Any) -> Any:
        """Render a page; Flower's own leave their buttons out for who may not press them."""
        if "read_only" in kwargs:
            kwargs["read_only"] = kwargs["read_only"] or not self.visitor.may(Right.CONTROL)
        return super().render(template_name, **kwargs)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer 401 in plain words; Flower's would make the browser ask for a basic-auth password."""
        if status_code != 401:
            super().write_error(status_code, **kwargs)
            return
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.set_header("WWW-Authenticate", 'Session realm="Django"')
        self.finish(str(error.get_message()) if isinstance(error, HTTPError) else "Log in first.")


class ReadingGuard(Guard):
    """For the tasks table, whose query is too long for a URL: a POST that changes nothing."""

    writes = False


class MetricsGuard(Guard):
    """For ``/metrics``: a scrape token, or a login."""

    async def prepare(self) -> None:
        """Let a scraper in that sends ``Authorization: Bearer <token>``, else ask for a login."""
        token = settings().metrics_token
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if token and hmac.compare_digest(given.strip().encode(), token.encode()):
                self.current_user = None
                return
            self.refuse(401, "This is not the token of ORCHESTRATOR_METRICS_TOKEN, or none is set.")
        await super().prepare()


def guarded(handler: type[RequestHandler], guard: type[Guard] = Guard) -> type[RequestHandler]:
    """Return a handler class with the door in front of it."""
    if issubclass(handler, Guard):
        return handler
    return type(f"Guarded{handler.__name__}", (guard, handler), {"flower_name": handler.__name__})
