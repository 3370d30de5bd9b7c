"""django-celery-beat's admin, registered again: every act needs the change permission and is recorded."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django_celery_beat import admin as theirs
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from orchestrator.audit.browsing import CappedPaginator, recent_values, short_time
from orchestrator.audit.services import record
from orchestrator.contracts.errors import BrokerUnavailable, OrchestratorError
from orchestrator.schedules import services
from orchestrator.schedules.forms import CrontabForm, ScheduleForm

#: Schedules that the page of an interval or a crontab names.
SHOWN = 20


class Recorded:
    """Writes an audit entry for each save and deletion, in the admin's own transaction."""

    #: Noun of the audit action.
    noun = "schedule"

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Save, and say what changed."""
        super().save_model(request, obj, form, change)  # type: ignore[misc]
        verb = "change" if change else "add"
        record(f"{self.noun}.{verb}", by=request.user, target=_name(obj), fields=list(form.changed_data))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete, and say what went along."""
        with transaction.atomic():
            record(f"{self.noun}.delete", by=request.user, target=_name(obj), schedules=_dependants([obj]))
            super().delete_model(request, obj)  # type: ignore[misc]

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Delete several, each with its own entry."""
        with transaction.atomic():
            for obj in queryset:
                record(f"{self.noun}.delete", by=request.user, target=_name(obj), schedules=_dependants([obj]))
            super().delete_queryset(request, queryset)  # type: ignore[misc]


class Bounded:
    """A list of a table of any size: counted up to a bound only."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER


class PeriodicTaskAdmin(Recorded, Bounded, theirs.PeriodicTaskAdmin):  # type: ignore[misc]  # no types
    """Schedules."""

    form = ScheduleForm
    date_hierarchy = None
    list_display: tuple[str, ...] = ("what", "is_on", "scheduler", "upcoming", "last", "runs")
    sortable_by = ("what", "is_on", "last", "runs")
    list_filter = ("enabled", "one_off", recent_values("task"), "last_run_at")
    actions = ("enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks")

    class Media:
        css: ClassVar[dict[str, tuple[str, ...]]] = {"all": ("orchestrator_audit/records.css",)}

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Render their form, whose script looks up the chosen crontab even if none is."""
        context["readable_crontabs"][""] = "none chosen"
        return super().render_change_form(request, context, *args, **kwargs)

    @admin.display(description="schedule", ordering="name")
    def what(self, task: PeriodicTask) -> SafeString:
        """Return the name with the task below."""
        return format_html('{}<span class="orchestrator-below">{}</span>', task.name, task.task)

    @admin.display(description="last run", ordering="last_run_at")
    def last(self, task: PeriodicTask) -> SafeString | str:
        """Return when it ran last."""
        return short_time(task.last_run_at)

    @admin.display(description="runs", ordering="total_run_count")
    def runs(self, task: PeriodicTask) -> int:
        """Return how often the scheduler has sent it."""
        count: int = task.total_run_count
        return count

    @admin.display(description="enabled", boolean=True, ordering="enabled")
    def is_on(self, task: PeriodicTask) -> bool:
        """Return whether it is on."""
        return bool(task.enabled)

    @admin.display(description="next run")
    def upcoming(self, task: PeriodicTask) -> SafeString | str:
        """Return when it runs next."""
        due = services.next_run(task)
        if due is None:
            return "-"
        now = timezone.now()
        if due <= now:
            return "due now"
        return format_html('<span title="in {}">{}</span>', _span(now, due), short_time(due))

    @admin.action(description="Enable selected schedules", permissions=["change"])
    def enable_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Turn on."""
        self._switch(request, queryset, lambda task: True)

    @admin.action(description="Disable selected schedules", permissions=["change"])
    def disable_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Turn off."""
        self._switch(request, queryset, lambda task: False)

    @admin.action(description="Toggle selected schedules", permissions=["change"])
    def toggle_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Turn each to the other state."""
        self._switch(request, queryset, lambda task: not task.enabled)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Any], wanted: Any) -> None:
        counts = {True: 0, False: 0}
        same = 0
        for task in queryset:
            enabled = wanted(task)
            try:
                with transaction.atomic():
                    if services.set_enabled(task, enabled, by=request.user):
                        self.log_change(request, task, [{"changed": {"fields": ["Enabled"]}}])
                        counts[enabled] += 1
                    else:
                        same += 1
            except OrchestratorError as error:
                messages.error(request, str(error))
        said = [
            f"{number} {word}" for number, word in ((counts[True], "enabled"), (counts[False], "disabled")) if number
        ]
        if same:
            said.append(f"{same} unchanged, being so already")
        if said:
            messages.success(request, f"Schedules: {', '.join(said)}.")

    @admin.action(description="Run selected schedules now", permissions=["change"])
    def run_tasks(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Publish now, with the options that the scheduler would use."""
        published = []
        for task in queryset:
            try:
                with transaction.atomic():
                    self.log_change(request, task, "Run now.")
                    published.append(f"{task.name} as {services.run_now(task, by=request.user)}")
            except BrokerUnavailable as error:
                # The next ones would only wait for the same broker.
                messages.error(request, str(error))
                break
            except OrchestratorError as error:
                messages.error(request, str(error))
        if published:
            messages.success(request, f"Published {len(published)}: {'; '.join(published)}.")


class Timing(Recorded, Bounded):
    """When something is due; any number of schedules may go by it, of which a few are shown."""

    #: Theirs lists them all, with a query for each.
    inlines: ClassVar[Any] = ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return their fields, and who goes by them."""
        theirs = [name for name in super().get_fields(request, obj) if name != "used_by"]  # type: ignore[misc]
        return [*theirs, "used_by"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return what only shows."""
        return [*super().get_readonly_fields(request, obj), "used_by"]  # type: ignore[misc]

    @admin.display(description="schedules that go by it")
    def used_by(self, timing: Any) -> SafeString | str:
        """Return the first schedules by name, as links."""
        if timing.pk is None:
            return "-"
        some = list(timing.periodictask_set.order_by("name").values_list("pk", "name")[: SHOWN + 1])
        page = "admin:django_celery_beat_periodictask_change"
        links = format_html_join(", ", '<a href="{}">{}</a>', ((reverse(page, args=[pk]), n) for pk, n in some[:SHOWN]))
        return format_html("{} and more", links) if len(some) > SHOWN else links or "-"


class IntervalAdmin(Timing, theirs.IntervalScheduleAdmin):  # type: ignore[misc]  # no types
    """Intervals."""

    noun = "interval"


class CrontabAdmin(Timing, theirs.CrontabScheduleAdmin):  # type: ignore[misc]  # no types
    """Crontabs."""

    noun = "crontab"
    form = CrontabForm


class SolarAdmin(Timing, theirs.SolarScheduleAdmin):  # type: ignore[misc]  # no types
    """Solar events."""

    noun = "solar_event"


class ClockedAdmin(Timing, theirs.ClockedScheduleAdmin):  # type: ignore[misc]  # no types
    """Fixed times."""

    noun = "clocked_time"


def _name(obj: Any) -> str:
    return obj.name if isinstance(obj, PeriodicTask) else str(obj)


def _dependants(objects: list[Any]) -> list[str]:
    """Return names of the schedules that a deletion takes along."""
    names: list[str] = []
    for obj in objects:
        if not isinstance(obj, PeriodicTask):
            names.extend(obj.periodictask_set.values_list("name", flat=True))
    return names


def _span(now: datetime, then: datetime) -> str:
    seconds = int((then - now).total_seconds())
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"


OURS: dict[type[Any], Any] = {
    PeriodicTask: PeriodicTaskAdmin,
    IntervalSchedule: IntervalAdmin,
    CrontabSchedule: CrontabAdmin,
    SolarSchedule: SolarAdmin,
    ClockedSchedule: ClockedAdmin,
}

for _model, _admin in OURS.items():
    admin.site.unregister(_model)
    admin.site.register(_model, _admin)
