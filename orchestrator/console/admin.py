"""Admins that show links to the other apps, in place of those that know only their own."""

from __future__ import annotations

from django.contrib import admin
from django_celery_results.models import TaskResult

from orchestrator.console import links
from orchestrator.deadletters.admin import DeadLetterAdmin
from orchestrator.deadletters.models import DeadLetter
from orchestrator.runs.admin import TaskResultAdmin


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


admin.site.unregister(DeadLetter)
admin.site.register(DeadLetter, LinkedDeadLetterAdmin)
admin.site.unregister(TaskResult)
admin.site.register(TaskResult, LinkedTaskResultAdmin)
