"""Admins that show links to the other apps, in place of those that know only their own."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult

from orchestrator.console import links
from orchestrator.deadletters.admin import DeadLetterAdmin
from orchestrator.deadletters.models import DeadLetter
from orchestrator.runs.admin import TaskResultAdmin
from orchestrator.runs.history import AttemptAdmin
from orchestrator.runs.models import Attempt
from orchestrator.schedules.admin import PeriodicTaskAdmin


class LinkedDeadLetterAdmin(DeadLetterAdmin):
    """A dead letter with its task's result."""

    def related_links(self, letter: DeadLetter) -> list[tuple[str, str]]:
        """Return the links of :func:`orchestrator.console.links.of_letter`."""
        return links.of_letter(letter)


class LinkedTaskResultAdmin(TaskResultAdmin):
    """A result with its dead letters."""

    def related_links(self, result: TaskResult) -> list[tuple[str, str]]:
        """Return the links of :func:`orchestrator.console.links.of_result`."""
        return links.of_result(result.task_id)


class LinkedAttemptAdmin(AttemptAdmin):
    """An attempt with its task's result, dead letters and other attempts."""

    def related_links(self, attempt: Attempt) -> list[tuple[str, str]]:
        """Return the links of :func:`orchestrator.console.links.of_attempt`."""
        return links.of_attempt(attempt.task_id)


class LinkedPeriodicTaskAdmin(PeriodicTaskAdmin):
    """A schedule with how its last run ended."""

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """Fetch the last results of the rows that are shown."""
        page = super().get_changelist_instance(request)
        page.result_list = list(page.result_list)
        found = links.last_results([task.name for task in page.result_list])
        for task in page.result_list:
            task.last_result = found.get(task.name)
        return page

    @admin.display(description="last run", ordering="last_run_at")
    def last(self, task: PeriodicTask) -> SafeString | str:
        """Return when it ran last, with the state of its latest result below as a link."""
        when = super().last(task)
        number, state = task.last_result or (None, "")
        if number is None:
            return when
        url = reverse("admin:django_celery_results_taskresult_change", args=[number])
        badge = format_html('<span class="orchestrator-badge is-{}">{}</span>', state, state)
        return format_html('{}<a class="orchestrator-below" href="{}">{}</a>', when, url, badge)


admin.site.unregister(DeadLetter)
admin.site.register(DeadLetter, LinkedDeadLetterAdmin)
admin.site.unregister(TaskResult)
admin.site.register(TaskResult, LinkedTaskResultAdmin)
admin.site.unregister(Attempt)
admin.site.register(Attempt, LinkedAttemptAdmin)
admin.site.unregister(PeriodicTask)
admin.site.register(PeriodicTask, LinkedPeriodicTaskAdmin)
