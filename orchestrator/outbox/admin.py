"""The outbox in the Django admin: it only shows."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from orchestrator.audit.browsing import RecordAdmin, preformatted, recent_values, short_time
from orchestrator.contracts.errors import PayloadUnreadable
from orchestrator.outbox.models import OutboxMessage

#: Who may see arguments: one right, whatever page shows them.
PAYLOAD = "orchestrator_deadletters.view_payload"


@admin.register(OutboxMessage)
class OutboxMessageAdmin(RecordAdmin):
    """Messages that wait to be sent."""

    list_display = ("what", "task_id", "queue", "created", "due", "attempts")
    list_display_links = ("what",)
    list_filter = (recent_values("task"), recent_values("queue"))
    search_fields = ("task_id__exact", "task")
    search_help_text = "Searches the whole task id, or a part of the task's name."
    sortable_by = ("created",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Leave the large columns to the detail page."""
        match = request.resolver_match
        rows = super().get_queryset(request)
        on_list = match is not None and match.url_name == "orchestrator_outbox_outboxmessage_changelist"
        return rows.defer("payload", "event", "args_repr", "kwargs_repr") if on_list else rows

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Show arguments to those who may see them, redacted texts to everybody else."""
        shown: list[Any] = [
            (None, {"fields": ("task", "task_id", "queue", "args_repr", "kwargs_repr")}),
            ("Sending", {"fields": ("created", "due", "attempts", "error")}),
        ]
        if request.user.has_perm(PAYLOAD):
            shown.append(("Message", {"fields": ("message",)}))
        return shown

    readonly_fields: ClassVar[Any] = ("created", "due", "message")

    @admin.display(description="task")
    def what(self, row: OutboxMessage) -> SafeString | str:
        """Return the task, and below it why it was not sent yet."""
        if not row.error:
            return row.task
        return format_html('{}<span class="orchestrator-below">{}</span>', row.task, Truncator(row.error).chars(160))

    @admin.display(description="created", ordering="pk")
    def created(self, row: OutboxMessage) -> SafeString | str:
        """Return when it was published into the transaction."""
        return short_time(row.created_at)

    @admin.display(description="due")
    def due(self, row: OutboxMessage) -> SafeString | str:
        """Return from when on a relay may send it."""
        return short_time(row.due_at)

    @admin.display(description="body")
    def message(self, row: OutboxMessage) -> SafeString | str:
        """Return the message's body, indented."""
        try:
            body = row.parcel.message.body
            return preformatted(json.dumps(json.loads(body), indent=2))
        except PayloadUnreadable as error:
            return str(error)
        except ValueError:
            return f"{len(body)} bytes that are no JSON"
