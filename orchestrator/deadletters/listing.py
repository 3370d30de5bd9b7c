"""The admin's list of dead letters and the filter it stands for, as one thing.

What the list shows is exactly what :func:`filter_of` returns for its URL, so
"all matching this filter" acts on the very rows that a person sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, IGNORED_PARAMS, PAGE_VAR, SEARCH_VAR, ChangeList
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from orchestrator.audit.browsing import RecentValuesFilter
from orchestrator.contracts.errors import InvalidOption, OrchestratorError, UnknownOption
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.services import Filter

ANY_STATE = "all"

#: Presets of the time filter: URL value -> (label, hours).
PRESETS: Mapping[str, tuple[str, int]] = {
    "1h": ("Past hour", 1),
    "24h": ("Past 24 hours", 24),
    "7d": ("Past 7 days", 7 * 24),
    "30d": ("Past 30 days", 30 * 24),
}

#: URL parameters that are named as in the filter.
PLAIN = ("task", "queue", "reason", "error_type", "fingerprint", "since", "until")


def filter_of(params: Mapping[str, str]) -> Filter:
    """Return the filter that a list URL stands for.

    Raises:
        InvalidOption: a value cannot work.
    """
    fields: dict[str, Any] = {name: params[name] for name in PLAIN if params.get(name)}
    if params.get(SEARCH_VAR, "").strip():
        fields["text"] = params[SEARCH_VAR].strip()
    state = params.get("state") or str(State.OPEN)
    fields["state"] = "" if state == ANY_STATE else state
    if params.get("died"):
        if params["died"] not in PRESETS:
            raise InvalidOption(f"died={params['died']!r}: give one of {', '.join(PRESETS)}.")
        fields["since"] = timezone.now() - timedelta(hours=PRESETS[params["died"]][1])
    return Filter(**fields)


class LetterList(ChangeList):
    """A change list whose rows come from :func:`filter_of`."""

    letters: Filter

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        """Return the rows of the filter, in the list's order."""
        try:
            _demand_known(request.GET)
            self.letters = filter_of(request.GET)
            self.root_queryset = self.letters.queryset()
        except OrchestratorError as error:
            messages.error(request, str(error))
            raise IncorrectLookupParameters(str(error)) from error
        return super().get_queryset(request, exclude_parameters).defer("payload", "edited_payload", "traceback")

    @property
    def bulk_query(self) -> str:
        """This list's filter as a query string for the bulk pages."""
        # A preset such as "past hour" is frozen here, or the rows would slip out of it while a person reads.
        return urlencode(self.letters.to_mapping())


def _demand_known(params: Mapping[str, str]) -> None:
    """Refuse conditions that are not the filter's.

    The admin would take any column, ``payload__contains=…`` too: a person without the permission to see
    payloads could guess at them, and the bulk pages would act on more than the list shows.

    Raises:
        UnknownOption: names the first one.
    """
    known = [*PLAIN, SEARCH_VAR, "state", "died"]
    for name in params:
        if name not in known and name not in (*IGNORED_PARAMS, PAGE_VAR, ERROR_FLAG):
            raise UnknownOption.among(name, known, "the list of dead letters")


class UnchangedFilter(admin.SimpleListFilter):
    """A filter that only draws its links; :func:`filter_of` picks the rows."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows as they are."""
        return queryset


class StateFilter(UnchangedFilter):
    """Open letters unless asked otherwise."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return each state, and all."""
        return [*((str(value), str(label)) for value, label in State.choices), (ANY_STATE, "All")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the links, "Open" chosen by default."""
        chosen = self.value() or str(State.OPEN)
        for value, label in self.lookup_choices:
            query = changelist.get_query_string({"state": value}, [PAGE_VAR])
            yield {"selected": chosen == value, "query_string": query, "display": label}


class ReasonFilter(UnchangedFilter):
    """Why a letter lies in the inbox."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return every reason."""
        return [(str(value), str(label)) for value, label in DeadLetter._meta.get_field("reason").choices or ()]


class FingerprintFilter(UnchangedFilter):
    """Shown only while one group of failures is chosen, so that it can be seen and left."""

    title = "failure group"
    parameter_name = "fingerprint"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the chosen group, or nothing."""
        chosen = self.value()
        if not chosen:
            return []
        sample = DeadLetter.objects.filter(fingerprint=chosen).values_list("error_type", "error_message").first()
        return [(chosen, f"{sample[0]}: {sample[1][:60]}" if sample else chosen)]


def recent_unchanged(column: str) -> type[RecentValuesFilter]:
    """Return a filter on recent values of ``column`` that only draws its links."""
    members = {"column": column, "parameter_name": column, "title": column, "queryset": UnchangedFilter.queryset}
    return type(f"Unchanged_{column}", (RecentValuesFilter,), members)


class DiedFilter(admin.ListFilter):
    """When a letter died: presets, or any span."""

    title = "time of death"
    template = "admin/orchestrator_deadletters/died_filter.html"
    parameters = ("died", "since", "until")

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.given = {name: params.pop(name)[-1] for name in self.parameters if name in params}
        self.used_parameters.update(self.given)

    def has_output(self) -> bool:
        """It always has its presets."""
        return True

    def expected_parameters(self) -> list[str | None]:
        """Return the URL parameters it reads."""
        return list(self.parameters)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows as they are."""
        return queryset

    def choices(self, changelist: Any) -> Iterator[Any]:
        """Yield the presets; the template adds the two fields."""
        self.others = {k: v for k, v in changelist.params.items() if k not in (*self.parameters, PAGE_VAR)}
        plain = changelist.get_query_string({}, [*self.parameters, PAGE_VAR])
        yield {"selected": not self.given, "query_string": plain, "display": "Any time"}
        for value, (label, _) in PRESETS.items():
            query = changelist.get_query_string({"died": value}, ["since", "until", PAGE_VAR])
            yield {"selected": self.given.get("died") == value, "query_string": query, "display": label}
