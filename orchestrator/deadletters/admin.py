"""The inbox in the Django admin: read-mostly; every act has its own button, permission and audit entry."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from orchestrator.audit.browsing import RecordAdmin, short_time
from orchestrator.deadletters.bulk_pages import BulkPages
from orchestrator.deadletters.listing import (
    DiedFilter,
    FingerprintFilter,
    LetterList,
    ReasonFilter,
    StateFilter,
    recent_unchanged,
)
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.pages import LetterPages


@admin.register(DeadLetter)
class DeadLetterAdmin(LetterPages, BulkPages, RecordAdmin):
    """List, failures page, detail page and the acts."""

    change_list_template = "admin/orchestrator_deadletters/deadletter/list.html"
    list_display = ("state_badge", "failure", "reason_name", "queue", "died")
    list_display_links = None
    list_filter = (
        StateFilter,
        FingerprintFilter,
        DiedFilter,
        ReasonFilter,
        recent_unchanged("task"),
        recent_unchanged("queue"),
    )
    # The field is named for the search box only: the rows come from the list's filter.
    search_fields = ("search",)
    search_help_text = "Searches the error, the task, ids and the arguments (redacted values are not found)."
    sortable_by = ("died", "failure")
    actions = ("redrive_selected", "discard_selected")

    def get_urls(self) -> list[URLPattern | URLResolver]:  # type: ignore[override]
        """Put the pages before the admin's own catch-all for ids."""
        return [*self.bulk_urls(), *self.letter_urls(), *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **_: Any) -> type[LetterList]:
        """Use the list whose rows are its filter."""
        return LetterList

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Leave the rows alone: the search text is part of the filter."""
        return queryset, False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list."""
        context = {"title": "Dead letters", "rights": self.rights(request), **(extra_context or {})}
        return super().changelist_view(request, context)

    @admin.display(description="died at", ordering="died_at")
    def died(self, letter: DeadLetter) -> SafeString | str:
        """Return the time of death, narrow."""
        return short_time(letter.died_at)

    @admin.display(description="task and error", ordering="task")
    def failure(self, letter: DeadLetter) -> SafeString:
        """Return the task as a link with the error below, cut to what a list can hold."""
        return format_html(
            '<a href="{}">{}</a><span class="orchestrator-error"><b>{}</b> {}</span>',
            reverse("admin:orchestrator_deadletters_deadletter_change", args=[letter.pk]),
            letter.task or "(no task name)",
            letter.error_type,
            Truncator(letter.error_message).chars(140),
        )

    @admin.display(description="reason")
    def reason_name(self, letter: DeadLetter) -> str:
        """Return the reason in words."""
        return str(letter.get_reason_display())

    @admin.display(description="state")
    def state_badge(self, letter: DeadLetter) -> SafeString:
        """Return the state as a coloured word."""
        label = State(letter.state).label
        return format_html('<span class="orchestrator-badge is-{}">{}</span>', letter.state, label)
