"""Pages that act on many dead letters: failures in groups, and confirm, act, report."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.http import urlencode

from orchestrator.contracts.errors import InvalidOption, OrchestratorError
from orchestrator.deadletters import services
from orchestrator.deadletters.forms import DiscardForm
from orchestrator.deadletters.listing import filter_of
from orchestrator.deadletters.models import State
from orchestrator.deadletters.pages import TEMPLATES
from orchestrator.deadletters.rights import Rights
from orchestrator.deadletters.services import Filter, Report

#: Letters that one request acts on; its report offers to go on. More would outlast a web server's timeout.
PER_REQUEST = 500

#: Rows shown on a confirm page, and problems on a report.
SAMPLE = 10
PROBLEMS = 50

#: Groups on the failures page.
GROUPS = 50

LIST_URL = "admin:orchestrator_deadletters_deadletter_changelist"


class BulkPages(Rights):
    """Mixed into the admin of dead letters."""

    admin_site: Any
    opts: Any

    def bulk_urls(self) -> list[URLPattern]:
        """Return the URLs; they must come before the one that takes any path as an id."""
        wrap = self.admin_site.admin_view
        return [
            path("groups/", wrap(self.groups_view), name="orchestrator_deadletters_groups"),
            path("bulk/redrive/", wrap(self.bulk_redrive_view), name="orchestrator_deadletters_bulk_redrive"),
            path("bulk/discard/", wrap(self.bulk_discard_view), name="orchestrator_deadletters_bulk_discard"),
        ]

    @admin.action(description="Redrive selected dead letters…", permissions=["redrive"])
    def redrive_selected(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        """Ask before redriving."""
        return self._asked(request, "redrive", queryset)

    @admin.action(description="Discard selected dead letters…", permissions=["discard"])
    def discard_selected(self, request: HttpRequest, queryset: Any) -> HttpResponse:
        """Ask before discarding."""
        return self._asked(request, "discard", queryset)

    def _asked(self, request: HttpRequest, verb: str, queryset: Any) -> HttpResponse:
        try:
            return self._confirm(request, verb, _selection(request, queryset))
        except OrchestratorError as error:
            return _refused(request, error)

    def groups_view(self, request: HttpRequest) -> HttpResponse:
        """List open letters grouped by what failed."""
        self.demand(request, "letters")
        groups = services.groups(Filter(), limit=GROUPS + 1)
        context = {
            **self._common(request, "Failures"),
            "groups": groups[:GROUPS],
            "more": len(groups) > GROUPS,
            "limit": GROUPS,
            "rights": self.rights(request),
        }
        return TemplateResponse(request, f"{TEMPLATES}/groups.html", context)

    # A redrive commits its steps one by one, whatever ATOMIC_REQUESTS says.
    @transaction.non_atomic_requests
    def bulk_redrive_view(self, request: HttpRequest) -> HttpResponse:
        """GET: the confirm page for a filter; POST: redrive."""
        return self._bulk(request, "redrive")

    def bulk_discard_view(self, request: HttpRequest) -> HttpResponse:
        """GET: the confirm page for a filter; POST: discard."""
        return self._bulk(request, "discard")

    def _bulk(self, request: HttpRequest, verb: str) -> HttpResponse:
        self.demand(request, verb)
        try:
            if request.method != "POST":
                return self._confirm(request, verb, Filter.from_mapping(request.GET.dict()))
            chosen, expected = _posted(request)
        except OrchestratorError as error:
            return _refused(request, error)
        count = chosen.queryset().count()
        if count > expected:
            told = f"{count} letters match now instead of {expected}: look again. Nothing was changed."
            messages.warning(request, told)
            return self._confirm(request, verb, chosen)
        return self._act(request, verb, chosen)

    def _act(self, request: HttpRequest, verb: str, chosen: Filter) -> HttpResponse:
        if verb == "redrive":
            return self._report(request, verb, chosen, self._redriven(request, chosen))
        form = DiscardForm(request.POST)
        if not form.is_valid():
            return self._confirm(request, verb, chosen, form)
        reason = form.cleaned_data["reason"]
        report = services.discard_where(chosen, reason=reason, by=request.user, limit=PER_REQUEST)
        return self._report(request, verb, chosen, report)

    @staticmethod
    def _redriven(request: HttpRequest, chosen: Filter) -> Report:
        return services.redrive_where(chosen, by=request.user, limit=PER_REQUEST)

    def _confirm(
        self, request: HttpRequest, verb: str, asked: Filter, form: DiscardForm | None = None
    ) -> TemplateResponse:
        chosen = _open_only(asked)
        rows = chosen.queryset()
        count = rows.count()
        context = {
            **self._common(request, f"{verb.capitalize()} {_letters(count)}?"),
            "verb": verb,
            "count": count,
            # As text: a site that writes thousands with separators must not write them into a form.
            "expected": str(count),
            "closed": len(asked.ids) - count if asked.ids else 0,
            "words": f"The {_letters(len(asked.ids))} that you selected" if asked.ids else _capital(chosen.describe()),
            "sample": rows.order_by("died_at").defer("payload", "edited_payload", "traceback")[:SAMPLE],
            "more": max(0, count - SAMPLE),
            "filter": json.dumps(chosen.to_mapping()),
            "per_request": PER_REQUEST,
            "form": form or DiscardForm(),
            "action": reverse(f"admin:orchestrator_deadletters_bulk_{verb}"),
        }
        return TemplateResponse(request, f"{TEMPLATES}/confirm.html", context)

    def _report(self, request: HttpRequest, verb: str, chosen: Filter, report: Report) -> TemplateResponse:
        verbed = "redriven" if verb == "redrive" else "discarded"
        query = {name: value for name, value in chosen.to_mapping().items() if name != "ids"}
        problems = [*report.failed, *report.skipped]
        left = chosen.queryset().count()
        context = {
            **self._common(request, f"{_letters(len(report.done))} {verbed}"),
            "verb": verb,
            "report": report,
            "problems": problems[:PROBLEMS],
            "hidden_problems": max(0, len(problems) - PROBLEMS),
            "left": left,
            "go_on": f"{reverse(f'admin:orchestrator_deadletters_bulk_{verb}')}?{urlencode(query)}",
            # What failed just now would fail again. A selection by id never exceeds one request.
            "more": left > len(report.failed) and not chosen.ids,
        }
        return TemplateResponse(request, f"{TEMPLATES}/report.html", context)

    def _common(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts, "title": title}


def _selection(request: HttpRequest, queryset: Any) -> Filter:
    """Return the filter of an action: the whole list if "select all" was pressed, else the ticked rows."""
    if request.POST.get("select_across") == "1":
        return filter_of(request.GET.dict())
    return Filter(ids=tuple(str(pk) for pk in queryset.values_list("pk", flat=True)))


def _refused(request: HttpRequest, error: OrchestratorError) -> HttpResponse:
    messages.error(request, f"{error} Nothing was changed.")
    return redirect(reverse(LIST_URL))


def _open_only(asked: Filter) -> Filter:
    """Freeze a filter to open letters that died before now: nobody has seen what dies meanwhile.

    Raises:
        InvalidOption: it asks for letters in another state, which nothing can be done with.
    """
    if asked.state not in ("", str(State.OPEN)):
        raise InvalidOption(
            f"Only open letters can be redriven or discarded, and this filter asks for {asked.state} ones."
        )
    until = asked.until if asked.until or asked.ids else timezone.now()
    return replace(asked, state=str(State.OPEN), until=until)


def _posted(request: HttpRequest) -> tuple[Filter, int]:
    """Return the filter and the count that the confirm page showed.

    Raises:
        InvalidOption: the form came without them.
        UnknownOption: the filter asks for what no filter knows.
    """
    try:
        given = json.loads(request.POST.get("filter", ""))
        expected = int(request.POST.get("expected", ""))
    except ValueError as error:
        raise InvalidOption(f"The form came without its filter or its count ({error}): start from the list.") from error
    if not isinstance(given, dict):
        raise InvalidOption("The form's filter is no object: start from the list.")
    return _open_only(Filter.from_mapping(given)), expected


def _letters(count: int) -> str:
    return f"{count} dead letter" if count == 1 else f"{count} dead letters"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
