"""The outbox in the Django admin: shown, and looked after by those who may."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from orchestrator.audit.browsing import RecordAdmin, preformatted, recent_values, short_time
from orchestrator.contracts.errors import ConfigurationError, PayloadUnreadable, StoreUnavailable
from orchestrator.outbox import services
from orchestrator.outbox.models import OutboxMessage

#: Who may see arguments: one right, whatever page shows them.
PAYLOAD = "orchestrator_deadletters.view_payload"


class SentFilter(admin.SimpleListFilter):
    """Tell what waits to be sent from what was sent and has not ended, as far as is known."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the two states."""
        return [("waiting", "waits to be sent"), ("sent", "sent, not known to have ended")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows in the chosen state."""
        return queryset if self.value() is None else queryset.filter(due_at__isnull=self.value() == "sent")


@admin.register(OutboxMessage)
class OutboxMessageAdmin(RecordAdmin):
    """Messages that wait to be sent, and those that were sent and have not ended."""

    list_display = ("what", "queue", "created", "due", "sent", "attempts")
    list_display_links = ("what",)
    actions = ("reconcile",)
    list_filter = (SentFilter, recent_values("task"), recent_values("queue"))
    search_fields = ("task_id__exact", "task")
    search_help_text = "Searches the whole task id, or a part of the task's name."
    sortable_by = ("created",)
    ordering = ("-pk",)

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
            ("Sending", {"fields": ("ordering_key", "created", "due", "sent", "attempts", "error")}),
        ]
        if request.user.has_perm(PAYLOAD):
            shown.append(("Message", {"fields": ("message",)}))
        return shown

    readonly_fields: ClassVar[Any] = ("created", "due", "sent", "message")

    @admin.display(description="task")
    def what(self, row: OutboxMessage) -> SafeString:
        """Return the task, below it its id, and why it was not sent yet."""
        below = (text for text in (row.task_id, Truncator(row.error).chars(160)) if text)
        lines = format_html_join("", '<span class="orchestrator-below">{}</span>', ((text,) for text in below))
        return format_html("{}{}", row.task, lines)

    @admin.display(description="created", ordering="pk")
    def created(self, row: OutboxMessage) -> SafeString | str:
        """Return when it was published into the transaction."""
        return short_time(row.created_at)

    @admin.display(description="due")
    def due(self, row: OutboxMessage) -> SafeString | str:
        """Return from when on a relay may send it."""
        return short_time(row.due_at)

    @admin.display(description="sent")
    def sent(self, row: OutboxMessage) -> SafeString | str:
        """Return when it was sent, and is kept since until it is known how it ended."""
        return short_time(row.sent_at)

    def has_reconcile_permission(self, request: HttpRequest) -> bool:
        """Whether the user may have messages sent again."""
        return bool(request.user.has_perm("orchestrator_outbox.reconcile_outboxmessage"))

    @admin.action(description="Look for these in the broker, and send again what is lost", permissions=["reconcile"])
    def reconcile(self, request: HttpRequest, rows: QuerySet[Any]) -> None:
        """Look for the messages of the chosen rows; those that are nowhere are put back to be sent, audited."""
        try:
            report = services.reconcile(only=rows, by=request.user)
        except (ConfigurationError, StoreUnavailable) as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        counts = report.counts
        told = (
            f"{counts[services.Found.THERE]} are in the broker, {counts[services.Found.ENDED]} have ended, "
            f"{counts[services.Found.UNKNOWN]} began and nobody knows how they ended, "
            f"{report.sent_again} were lost and are sent again."
        )
        self.message_user(request, told, messages.SUCCESS)

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
