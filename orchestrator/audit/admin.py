"""The list of who did what."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.utils.safestring import SafeString
from django.utils.text import Truncator

from orchestrator.audit.browsing import RecordAdmin, preformatted, recent_values, short_time
from orchestrator.audit.models import AuditEntry


@admin.register(AuditEntry)
class AuditEntryAdmin(RecordAdmin):
    """Read-only: the table is append-only."""

    list_display = ("when", "actor", "action", "target", "summary")
    list_filter = (recent_values("action"), recent_values("actor", "user"), ("at", admin.DateFieldListFilter))
    search_fields = ("target", "actor")
    search_help_text = "Searches the target (an id or a name) and the user."
    sortable_by = ("when",)
    fields = ("at", "actor", "user", "action", "target", "pretty_details")
    list_select_related: ClassVar[list[str]] = []

    @admin.display(description="time", ordering="at")
    def when(self, entry: AuditEntry) -> SafeString | str:
        """Return the time, narrow."""
        return short_time(entry.at)

    @admin.display(description="details")
    def summary(self, entry: AuditEntry) -> str:
        """Return the facts in one line."""
        facts = ", ".join(f"{key}: {_plain(value)}" for key, value in entry.details.items())
        return Truncator(facts).chars(120) if facts else "-"

    @admin.display(description="details")
    def pretty_details(self, entry: AuditEntry) -> SafeString | str:
        """Return all facts."""
        return preformatted(json.dumps(entry.details, indent=2, ensure_ascii=False) if entry.details else "")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
