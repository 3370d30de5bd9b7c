"""The form of a schedule: what could not run is refused before it is saved."""

from __future__ import annotations

from typing import Any

from django import forms
from django_celery_beat.admin import PeriodicTaskForm, TaskChoiceField, TaskSelectWidget
from kombu.utils import json as wire

from orchestrator.celery import get_app
from orchestrator.contracts.documents import parse_document
from orchestrator.contracts.errors import InvalidOption, PayloadIncompatible, UnknownTask
from orchestrator.schedules.services import registered_tasks, require_task


class OurTasks(TaskSelectWidget):  # type: ignore[misc]  # django-celery-beat has no types
    """Offers the tasks of the project's app, read at each view."""

    def tasks_as_choices(self) -> tuple[tuple[str, str], ...]:
        """Return every registered task but Celery's own."""
        names = sorted(name for name in registered_tasks() if not name.startswith("celery."))
        return (("", ""), *((name, name) for name in names))


class TaskChoice(TaskChoiceField):  # type: ignore[misc]  # django-celery-beat has no types
    """A field with that widget."""

    widget = OurTasks


class ScheduleForm(PeriodicTaskForm):  # type: ignore[misc]  # django-celery-beat has no types
    """django-celery-beat's form, with checks of the task's name and of its arguments."""

    regtask = TaskChoice(label="Task (registered)", required=False)

    def clean_args(self) -> str:
        """Require a JSON list."""
        return self._document("args", list)

    def clean_kwargs(self) -> str:
        """Require a JSON object."""
        return self._document("kwargs", dict)

    def clean_headers(self) -> str:
        """Require a JSON object, or nothing."""
        return self._document("headers", dict) if (self.cleaned_data.get("headers") or "").strip() else "{}"

    def clean(self) -> dict[str, Any]:
        """Check that the task exists and takes the arguments."""
        # Theirs reads this key without asking; a name that is too long has none.
        self.cleaned_data.setdefault("task", "")
        data: dict[str, Any] = super().clean()
        name = data.get("task") or ""
        # A schedule of a task that is gone must still be possible to turn off.
        parked = self.instance.pk is not None and name == self.instance.task and not data.get("enabled")
        if name and not parked:
            try:
                require_task(name)
            except UnknownTask as error:
                self.add_error("task", f"{error}")
            else:
                self._check_arguments(name, data)
        return data

    def _check_arguments(self, name: str, data: dict[str, Any]) -> None:
        if "args" not in data or "kwargs" not in data:
            return
        try:
            get_app().check_arguments(name, wire.loads(data["args"]), wire.loads(data["kwargs"]))
        except PayloadIncompatible as error:
            self.add_error("args", str(error).removesuffix(" Redrive with edited arguments."))

    def _document(self, field: str, kind: type) -> str:
        text: str = self.cleaned_data[field] or ("[]" if kind is list else "{}")
        try:
            parse_document(text, kind)
        except InvalidOption as error:
            raise forms.ValidationError(str(error)) from error
        return text


class CrontabForm(forms.ModelForm):  # type: ignore[type-arg]
    """Refuses a date that never comes; such a crontab would stop the whole scheduler."""

    def clean(self) -> dict[str, Any]:
        """Look for the next time."""
        data: dict[str, Any] = super().clean() or {}
        if self.errors:
            return data
        for name, value in data.items():
            setattr(self.instance, name, value)
        try:
            schedule = self.instance.schedule
            schedule.remaining_estimate(schedule.now())
        except (RuntimeError, ValueError) as error:
            raise forms.ValidationError("This date never comes (such as 30 February), so nothing would run.") from error
        return data
