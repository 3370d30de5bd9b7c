"""django-celery-results' admin, registered again: it only shows, and shows what matters first."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

# Imported so that it has registered its own admins before they are replaced here.
from django_celery_results import admin as _theirs  # noqa: F401
from django_celery_results.models import GroupResult, TaskResult

from orchestrator.audit.browsing import RecordAdmin, preformatted, recent_values, short_time
from orchestrator.contracts.documents import legible
from orchestrator.runs import history  # noqa: F401  (registers its page)

#: Columns that can be large; the list does not load them.
LARGE = ("result", "traceback", "meta", "task_args", "task_kwargs")


class TaskResultAdmin(RecordAdmin):
    """Results of tasks."""

    list_display = ("state", "what", "done", "worker", "periodic_task_name")
    list_display_links = ("what",)
    list_filter = (
        recent_values("status", "state"),
        recent_values("task_name", "task"),
        ("date_done", admin.DateFieldListFilter),
        recent_values("periodic_task_name", "schedule"),
        recent_values("worker"),
    )
    search_fields = ("task_id__exact", "task_name", "periodic_task_name")
    search_help_text = "Searches the whole task id, or a part of the task's or schedule's name."
    sortable_by = ("done", "what")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("task_name", "state", "task_id", "see_also", "periodic_task_name", "worker")}),
        ("Times", {"fields": ("date_created", "date_started", "date_done")}),
        ("Arguments, as the worker described them", {"fields": ("task_args", "task_kwargs")}),
        ("Outcome", {"fields": ("pretty_result", "indented_traceback", "pretty_meta")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave the large columns to the detail page."""
        match = request.resolver_match
        rows = super().get_queryset(request)
        on_list = match is not None and match.url_name == "django_celery_results_taskresult_changelist"
        return rows.defer(*LARGE) if on_list else rows

    def related_links(self, result: TaskResult) -> list[tuple[str, str]]:
        """Return (label, URL) of pages elsewhere about the same task; the console fills it."""
        return []

    @admin.display(description="state", ordering="status")
    def state(self, result: TaskResult) -> SafeString:
        """Return the state as a coloured word."""
        return format_html('<span class="orchestrator-badge is-{}">{}</span>', result.status, result.status)

    @admin.display(description="task", ordering="task_name")
    def what(self, result: TaskResult) -> SafeString:
        """Return the task's name with its id below."""
        name = result.task_name or "(no task name)"
        return format_html('{}<span class="orchestrator-below">{}</span>', name, result.task_id)

    @admin.display(description="done", ordering="date_done")
    def done(self, result: TaskResult) -> SafeString | str:
        """Return when it was written last, narrow."""
        return short_time(result.date_done)

    @admin.display(description="see also")
    def see_also(self, result: TaskResult) -> SafeString | str:
        """Return links, such as to the dead letter of a failed task."""
        links = [(url, label) for label, url in self.related_links(result)]
        return format_html_join(" · ", '<a href="{}">{}</a>', links) or "-"

    @admin.display(description="result")
    def pretty_result(self, result: TaskResult) -> SafeString | str:
        """Return the result, indented where it is JSON."""
        return preformatted(_pretty(result.result))

    @admin.display(description="traceback")
    def indented_traceback(self, result: TaskResult) -> SafeString | str:
        """Return the traceback with its indentation."""
        return preformatted(result.traceback)

    @admin.display(description="meta")
    def pretty_meta(self, result: TaskResult) -> SafeString | str:
        """Return children and what else the backend keeps."""
        return preformatted(_pretty(result.meta))


class GroupResultAdmin(RecordAdmin):
    """Results of groups."""

    list_display = ("date_done", "group_id")
    list_filter = (("date_done", admin.DateFieldListFilter),)
    search_fields = ("group_id__exact",)
    search_help_text = "Searches the whole group id."
    sortable_by = ("date_done",)
    fields = ("group_id", "date_created", "date_done", "pretty_result")

    @admin.display(description="result")
    def pretty_result(self, result: GroupResult) -> SafeString | str:
        """Return the members, indented."""
        return preformatted(_pretty(result.result))


def _pretty(text: str | None) -> str:
    if not text:
        return ""
    try:
        return legible(json.dumps(json.loads(text), indent=2, ensure_ascii=False))
    except ValueError:
        return text


def replace(model: type[Any], ours: type[admin.ModelAdmin]) -> None:  # type: ignore[type-arg]
    """Register ``ours`` in place of whatever shows ``model``."""
    if admin.site.is_registered(model):
        admin.site.unregister(model)
    admin.site.register(model, ours)


replace(TaskResult, TaskResultAdmin)
replace(GroupResult, GroupResultAdmin)
