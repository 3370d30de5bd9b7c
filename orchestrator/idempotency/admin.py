"""Records of idempotent tasks: shown, and freed by those who may."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from orchestrator.audit.browsing import RecordAdmin, recent_values, short_time
from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.idempotency.freeing import free
from orchestrator.idempotency.models import IdempotencyRecord


@admin.register(IdempotencyRecord)
class IdempotencyRecordAdmin(RecordAdmin):
    """Effects that have taken place. Results are not shown: they may hold anybody's data."""

    list_display = ("what", "completed", "expires", "task_id")
    list_display_links = ("what",)
    list_filter = (recent_values("task"), ("completed_at", admin.DateFieldListFilter))
    search_fields = ("key__exact", "task_id__exact")
    search_help_text = "Searches the whole key or the whole task id."
    sortable_by = ("completed",)
    fields = ("task", "key", "task_id", "fence", "completed", "expires", "fingerprint")
    actions = ("free_keys",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[IdempotencyRecord]:
        """Leave the results where they are."""
        return super().get_queryset(request).defer("value")

    def has_free_permission(self, request: HttpRequest) -> bool:
        """Whether the user may free keys."""
        return bool(request.user.has_perm("orchestrator_idempotency.free_key"))

    @admin.display(description="key and task")
    def what(self, record: IdempotencyRecord) -> Any:
        """Return the key, and below it the task."""
        return format_html('{}<span class="orchestrator-below">{}</span>', record.key, record.task)

    @admin.display(description="completed", ordering="completed_at")
    def completed(self, record: IdempotencyRecord) -> Any:
        """Return when it took effect."""
        return short_time(record.completed_at)

    @admin.display(description="expires")
    def expires(self, record: IdempotencyRecord) -> Any:
        """Return until when it is remembered."""
        return short_time(record.expires_at)

    @admin.action(description="Free these keys: the next call takes effect again", permissions=["free"])
    def free_keys(self, request: HttpRequest, rows: QuerySet[IdempotencyRecord]) -> None:
        """Free the chosen keys, each with an audit entry."""
        freed = 0
        try:
            for task, key in rows.values_list("task", "key"):
                freed += free(task, key, by=request.user)
        except StoreUnavailable as error:
            self.message_user(request, f"Freed {freed}, then stopped: {error}", messages.ERROR)
            return
        self.message_user(request, f"Freed {freed}. The next call under each key takes effect again.")
