"""Flower with our pages, and stock Flower behind the same door.

Flower's constructor takes no handler list, but it hands its own to the next class
in line. :class:`GuardedRoutes` stands in that line, so nothing of Flower is
patched, not even for a moment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import tornado.web
from flower.app import Flower, default_handlers, rewrite_handler
from flower.urls import settings as flower_settings
from flower.views import BaseHandler
from tornado.routing import URLSpec
from tornado.web import RequestHandler, StaticFileHandler, url

from orchestrator.contracts.errors import ConfigurationError
from orchestrator.flower import contract
from orchestrator.flower.database import DatabaseThreads
from orchestrator.flower.guard import Guard, MetricsGuard, ReadingGuard, guarded
from orchestrator.flower.login import LoginHandler, LogoutHandler
from orchestrator.flower.pages import PAGES
from orchestrator.flower.templates import PageLoader

logger = logging.getLogger(__name__)


class Alive(BaseHandler):  # type: ignore[misc]
    """Answers a liveness probe; open to everybody, says nothing but OK."""

    def get(self) -> None:
        """Answer."""
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.write("OK")


class GuardedRoutes(tornado.web.Application):
    """Puts the guard in front of every handler that Flower passes on."""

    #: (pattern, handler, name) that come before Flower's.
    first: ClassVar[tuple[tuple[str, type[RequestHandler], str | None], ...]] = (
        (r"/login", LoginHandler, "login"),
        # Flower's pattern as well, so that its own handler is out of reach.
        (r"/login/?", LoginHandler, None),
        (r"/logout", LogoutHandler, "logout"),
        (r"/healthcheck", Alive, "healthcheck"),
    )

    def __init__(self, handlers: Iterable[Any] = (), **kwargs: Any) -> None:
        prefix = kwargs.pop("prefix", "")
        ours = [url(pattern, handler, name=name) for pattern, handler, name in self.first]
        if prefix:
            ours = [rewrite_handler(rule, prefix) for rule in ours]
        taken = {contract.pattern_and_class(rule)[0] for rule in ours}
        theirs = [_guard(rule) for rule in handlers if contract.pattern_and_class(rule)[0] not in taken]
        super().__init__(handlers=[*ours, *theirs], **kwargs)


class StockFlower(Flower, GuardedRoutes):  # type: ignore[misc]
    """Flower as it is, behind Django's login."""

    amends: ClassVar[bool] = False

    def __init__(self, *, web_url: str = "", options: Any, **kwargs: Any) -> None:
        #: Where the Django site is, without a slash at the end; for links only.
        self.web_url = web_url.rstrip("/")
        #: Two sets of threads, so that a long redrive keeps nobody from logging in.
        self.lookups = DatabaseThreads(4, "lookup")
        self.verbs = DatabaseThreads(2, "verb")
        settings = flower_settings | {
            "template_loader": PageLoader(flower_settings["template_path"], amend=self.amends),
            "xsrf_cookies": True,
            "xsrf_cookie_kwargs": {"samesite": "Lax"},
        }
        prefix = (options.url_prefix or "").strip("/")
        if prefix:
            settings["static_url_prefix"] = f"/{prefix}{settings['static_url_prefix']}"
        super().__init__(options=options, prefix=prefix, **settings, **kwargs)

    def stop(self) -> None:
        """Stop, together with the threads for the database."""
        super().stop()
        self.lookups.close()
        self.verbs.close()


class OrchestratorFlower(StockFlower):
    """Flower with the inbox."""

    amends = True
    first = (*GuardedRoutes.first, *PAGES)


def flower_class(handlers: Iterable[Any] | None = None) -> type[StockFlower]:
    """Return the class that the installed Flower can carry; say so if it is the lesser one."""
    wrong = contract.differences(default_handlers if handlers is None else handlers, flower_settings["template_path"])
    if not wrong:
        return OrchestratorFlower
    logger.warning(
        "The installed Flower is not the one that the dead-letter pages are written for (flower>=2.2,<2.3): %s. "
        "Stock Flower runs behind Django's login instead; dead letters are in the Django admin.",
        "; ".join(wrong),
    )
    return StockFlower


#: Flower's handler class -> the guard that fits it; :class:`Guard` for all others.
GUARDS: dict[str, type[Guard]] = {"TasksDataTable": ReadingGuard, "Metrics": MetricsGuard}


def _guard(rule: Any) -> URLSpec:
    """Return one entry of Flower's handler list with the guard in front.

    Raises:
        ConfigurationError: it is nothing that a guard could stand in front of.
    """
    pattern, handler = contract.pattern_and_class(rule)
    if not (isinstance(handler, type) and issubclass(handler, RequestHandler)):
        raise ConfigurationError(
            f"Flower's handler for {pattern} is {handler!r}, which no login can be put in front of, so Flower does not "
            "start. Install the release that this one is made for: flower>=2.2,<2.3."
        )
    kwargs, name = (rule.kwargs, rule.name) if isinstance(rule, URLSpec) else ((rule[2] if len(rule) > 2 else {}), None)
    if not issubclass(handler, StaticFileHandler):
        handler = guarded(handler, GUARDS.get(handler.__name__, Guard))
    return URLSpec(pattern, handler, kwargs, name=name)
