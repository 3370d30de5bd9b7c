"""The history of attempts in the Django admin: it only shows."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from orchestrator.audit.browsing import RecordAdmin, preformatted, recent_values, short_time
from orchestrator.runs.models import Attempt


class AttemptAdmin(RecordAdmin):
    """Attempts that did not simply succeed."""

    list_display = ("how", "what", "number", "error", "ended", "worker")
    list_display_links = ("what",)
    list_filter = (
        recent_values("verdict", "ended"),
        recent_values("task"),
        ("ended_at", admin.DateFieldListFilter),
        recent_values("error_type", "error"),
        recent_values("worker"),
    )
    search_fields = ("task_id__exact", "task")
    search_help_text = "Searches the whole task id, or a part of the task's name."
    sortable_by = ()
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("task", "how", "number", "task_id", "see_also", "worker", "queue")}),
        ("Times", {"fields": ("published_at", "started_at", "ended_at")}),
        ("Error", {"fields": ("error", "shown_traceback")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave the large columns to the detail page."""
        match = request.resolver_match
        rows = super().get_queryset(request)
        on_list = match is not None and match.url_name == "orchestrator_runs_attempt_changelist"
        return rows.defer("traceback") if on_list else rows

    def related_links(self, attempt: Attempt) -> list[tuple[str, str]]:
        """Return (label, URL) of pages elsewhere about the same task; the console fills it."""
        return []

    @admin.display(description="ended")
    def how(self, attempt: Attempt) -> SafeString:
        """Return the verdict as a coloured word."""
        return format_html('<span class="orchestrator-badge is-{}">{}</span>', attempt.verdict, attempt.verdict)

    @admin.display(description="task")
    def what(self, attempt: Attempt) -> SafeString:
        """Return the task's name with its id below."""
        return format_html('{}<span class="orchestrator-below">{}</span>', attempt.task, attempt.task_id)

    @admin.display(description="attempt")
    def number(self, attempt: Attempt) -> int:
        """Return which attempt it was, counted from 1."""
        return attempt.retries + 1

    @admin.display(description="error")
    def error(self, attempt: Attempt) -> str:
        """Return the error in one line."""
        text = ": ".join(part for part in (attempt.error_type, attempt.error_message) if part)
        return text if len(text) <= 200 else f"{text[:200]}…"

    @admin.display(description="at")
    def ended(self, attempt: Attempt) -> SafeString | str:
        """Return when it ended, narrow."""
        return short_time(attempt.ended_at)

    @admin.display(description="see also")
    def see_also(self, attempt: Attempt) -> SafeString | str:
        """Return links, such as to the task's result and dead letter."""
        links = [(url, label) for label, url in self.related_links(attempt)]
        return format_html_join(" · ", '<a href="{}">{}</a>', links) or "-"

    @admin.display(description="traceback")
    def shown_traceback(self, attempt: Attempt) -> SafeString | str:
        """Return the traceback with its indentation."""
        return preformatted(attempt.traceback)


admin.site.register(Attempt, AttemptAdmin)
