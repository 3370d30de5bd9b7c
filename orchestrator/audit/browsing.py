"""Admin lists that stay quick on a table of millions of rows.

The admin's own list counts the whole table on each view and offers filters that
scan it. :class:`RecordAdmin` is the base of every list of records here (audit
entries, dead letters, results): read-only, counted only up to a cap that the page
states, with filter values taken from recent rows. It lives with the audit app
because that is the lowest of the Django apps, so each of the others may use it.
"""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

#: Rows that a list counts and pages through; beyond, the page says "more than".
COUNT_CAP = 5000

#: Newest rows that a filter reads to offer its values.
RECENT_ROWS = 5000


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """A paginator that stops counting at :data:`COUNT_CAP`."""

    cap = COUNT_CAP

    @cached_property
    def _counted(self) -> int:
        rows: Any = self.object_list
        if isinstance(rows, QuerySet):
            # An ordered subquery would sort what it only has to count.
            return rows.order_by()[: self.cap + 1].count()
        return len(rows)

    @property
    def capped(self) -> bool:
        """Whether there are more rows than were counted."""
        return self._counted > self.cap

    @cached_property
    def count(self) -> int:
        """Rows, at most the cap."""
        return min(self._counted, self.cap)


class RecentValuesFilter(admin.SimpleListFilter):
    """Offer the values that a column has in the newest rows. Subclass through :func:`recent_values`."""

    column: ClassVar[str]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the values, the chosen one always among them."""
        rows = model_admin.model._default_manager.values_list(self.column, flat=True)[:RECENT_ROWS]
        values = {value for value in rows if value}
        chosen = self.value()
        if chosen:
            values.add(chosen)
        return [(value, value) for value in sorted(values)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows with the chosen value."""
        return queryset.filter(**{self.column: self.value()}) if self.value() else queryset


def recent_values(column: str, title: str = "") -> type[RecentValuesFilter]:
    """Return a filter class for ``column``, whose name is also the URL parameter."""
    members = {"column": column, "parameter_name": column, "title": title or column.replace("_", " ")}
    return type(f"Recent_{column}", (RecentValuesFilter,), members)


def preformatted(text: str | None) -> SafeString | str:
    """Return text with its line breaks and indentation kept; a dash for none."""
    return format_html('<pre class="orchestrator-text">{}</pre>', text) if text else "-"


def short_time(moment: datetime | None) -> SafeString | str:
    """Return a time in the site's zone, to the second, that may break only between date and time."""
    if moment is None:
        return "-"
    local = timezone.localtime(moment)
    text = format_html('<span class="orchestrator-date">{}</span> {}', f"{local:%Y-%m-%d}", f"{local:%H:%M:%S}")
    return format_html('<time datetime="{}">{}</time>', local.isoformat(), text)


class RecordAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A list and a detail page that only show."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0

    class Media:
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("orchestrator_audit/records.css",)}

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Records come from workers and verbs, never from a form."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A record is not edited."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Retention removes records, nobody else does."""
        return False
