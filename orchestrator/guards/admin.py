"""Pages of what lives in Redis: shown as it is now, changed by those who may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from orchestrator.audit.browsing import RecordAdmin, short_time
from orchestrator.contracts.breaker import Circuit, Forced
from orchestrator.contracts.deduplication import Lock
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.guards import services
from orchestrator.guards.models import CircuitBreaker, DeduplicationLock

#: Locks on one page.
PAGE = 100


class LivePage(RecordAdmin):
    """One page without a table behind it: a list, and verbs for the chosen ones."""

    template: ClassVar[str]
    permission: ClassVar[str]
    #: Name of a button -> what it does to one name.
    verbs: ClassVar[Mapping[str, Callable[..., bool]]]
    #: What the template shows, and what a person is told who pressed a button.
    rows: Callable[[HttpRequest], dict[str, Any]]
    told: Callable[[str, list[str]], str]

    def get_urls(self) -> list[URLPattern]:
        """Offer the list only."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_changelist"
        return [path("", self.admin_site.admin_view(self.changelist_view), name=name)]

    def may(self, request: HttpRequest) -> bool:
        """Whether the user may use the verbs."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.{self.permission}"))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show the list, or do to the chosen ones what a button says."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            self._act(request)
            return HttpResponseRedirect(request.get_full_path())
        try:
            shown = self.rows(request)
        except StoreUnavailable as error:
            shown = {"unreachable": str(error)}
        context = {
            **self.admin_site.each_context(request),
            "title": str(self.opts.verbose_name_plural).capitalize(),
            "opts": self.opts,
            "media": self.media,
            "may": self.may(request),
            **shown,
            **(extra_context or {}),
        }
        return TemplateResponse(request, self.template, context)

    def _act(self, request: HttpRequest) -> None:
        if not self.may(request):
            raise PermissionDenied
        verb = self.verbs.get(request.POST.get("verb", ""))
        names = request.POST.getlist("name")
        if verb is None or not names:
            self.message_user(request, "Nothing was chosen, so nothing was changed.", messages.WARNING)
            return
        done: list[str] = []
        try:
            # One by one, so that what was done before an error is known.
            done.extend(name for name in names if verb(name, by=request.user))
        except StoreUnavailable as error:
            self.message_user(request, f"Changed {len(done)}, then stopped: {error}", messages.ERROR)
            return
        gone = len(names) - len(done)
        told = [self.told(request.POST["verb"], done)] if done else []
        told += [f"{gone} had ended meanwhile."] if gone else []
        self.message_user(request, " ".join(told), messages.SUCCESS if done else messages.WARNING)


@admin.register(DeduplicationLock)
class DeduplicationLockAdmin(LivePage):
    """Locks, and freeing them."""

    template = "orchestrator_guards/locks.html"
    permission = "free_lock"
    verbs: ClassVar[Mapping[str, Callable[..., bool]]] = {"free": services.free_lock}

    def rows(self, request: HttpRequest) -> dict[str, Any]:
        """Return one page of locks."""
        search = request.GET.get("q", "").strip()
        given = request.GET.get("p", "")
        page = int(given) if given.isdecimal() and len(given) < 8 else 0
        found, total = services.locks(search, page * PAGE, PAGE)
        return {
            "search": search,
            "total": total,
            "locks": [_lock(lock) for lock in found],
            "before": urlencode({"q": search, "p": page - 1}) if page else "",
            "after": urlencode({"q": search, "p": page + 1}) if total > (page + 1) * PAGE else "",
        }

    def told(self, verb: str, names: list[str]) -> str:
        """Return what a person is told of freed locks."""
        what = "1 lock" if len(names) == 1 else f"{len(names)} locks"
        return f"Freed {what}. The next call under each key is published; what is under way goes on."


@admin.register(CircuitBreaker)
class CircuitBreakerAdmin(LivePage):
    """Breakers, and deciding for them."""

    template = "orchestrator_guards/breakers.html"
    permission = "control_breaker"
    verbs: ClassVar[Mapping[str, Callable[..., bool]]] = {
        "open": partial(services.set_breaker, forced=Forced.OPEN),
        "close": partial(services.set_breaker, forced=Forced.CLOSED),
        "reset": partial(services.set_breaker, forced=None),
    }

    def rows(self, request: HttpRequest) -> dict[str, Any]:
        """Return all breakers."""
        return {"breakers": [_breaker(one) for one in services.breakers()]}

    def told(self, verb: str, names: list[str]) -> str:
        """Return what a person is told of a decision."""
        which = ", ".join(names)
        return {
            "open": f"Held open until it is reset: {which}. Its tasks wait.",
            "close": f"Held closed until it is reset: {which}. Its tasks run, whatever fails.",
            "reset": f"Reset: {which}. Closed, with nothing counted.",
        }[verb]


def _lock(lock: Lock) -> dict[str, Any]:
    mode, _, rest = lock.name.partition(":")
    task, _, key = rest.partition(":")
    return {
        "name": lock.name,
        "mode": mode,
        "task": task,
        "key": key,
        "task_id": lock.task_id,
        "state": lock.state,
        "since": _time(lock.since),
        "ends": _span(lock.seconds),
        "duplicates": lock.duplicates,
    }


def _breaker(one: Circuit) -> dict[str, Any]:
    total = one.good + one.failed
    return {
        "name": one.name,
        "state": str(one.state),
        "forced": bool(one.forced),
        "failed": one.failed,
        "total": total,
        "share": f"{100 * one.failed / total:.0f} %" if total else "-",
        "since": _time(one.since),
        "wait": _span(one.wait) if one.wait else "",
        "rule": f"{one.error_rate * 100:g} % of at least {one.minimum} in {_span(one.window)}",
        "cooldown": _span(one.cooldown),
    }


def _time(seconds: float) -> Any:
    return short_time(datetime.fromtimestamp(seconds, UTC) if seconds else None)


def _span(seconds: float) -> str:
    """Return a span in its largest fitting unit."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.3g} s"
