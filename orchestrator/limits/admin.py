"""Limits in the Django admin: all of them with who waits, and those that a person changed."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse

from orchestrator.audit.browsing import short_time
from orchestrator.contracts.errors import ConfigurationError, StoreUnavailable
from orchestrator.limits import services
from orchestrator.limits.models import LimitChange


class LimitChangeForm(forms.ModelForm):  # type: ignore[type-arg]
    """A name that some task declares, and a value that fits it."""

    class Meta:
        model = LimitChange
        fields = ("name", "value")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "name" in self.fields:
            choices = [(name, f"{name} (declared as {value})") for name, value in sorted(services.names().items())]
            self.fields["name"] = forms.ChoiceField(choices=choices)

    def clean(self) -> dict[str, Any]:
        """Refuse what cannot work, and what could not be told to the workers."""
        cleaned: dict[str, Any] = super().clean() or {}
        name = cleaned.get("name") or self.instance.name
        try:
            services.read(name, str(cleaned.get("value", "")).strip())
            services.states()
        except (ConfigurationError, StoreUnavailable) as error:
            raise forms.ValidationError(str(error)) from error
        return cleaned


@admin.register(LimitChange)
class LimitChangeAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Changes of limits; each acts at once and is audited."""

    form = LimitChangeForm
    list_display = ("name", "value", "as_declared", "changed")
    change_list_template = "orchestrator_limits/change_list.html"
    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """A change stays with its limit."""
        return ("name",) if obj is not None else ()

    def save_model(self, request: HttpRequest, obj: LimitChange, form: Any, change: bool) -> None:
        """Change the limit for everybody."""
        services.change(obj.name, obj.value, by=request.user)
        obj.pk = LimitChange.objects.get(name=obj.name).pk

    def delete_model(self, request: HttpRequest, obj: LimitChange) -> None:
        """Let the limit be as declared."""
        try:
            services.restore(obj.name, by=request.user)
        except StoreUnavailable as error:
            self.message_user(request, f"Not changed: {error}", messages.ERROR)

    @admin.display(description="declared as")
    def as_declared(self, row: LimitChange) -> str:
        """Return what the tasks say."""
        return services.names().get(row.name, "by no task any more")

    @admin.display(description="changed", ordering="changed_at")
    def changed(self, row: LimitChange) -> Any:
        """Return since when."""
        return short_time(row.changed_at)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show all limits above those that were changed."""
        try:
            context: dict[str, Any] = {"title": "Limits", "limits": services.states()}
        except StoreUnavailable as error:
            context = {"title": "Limits", "limits": [], "limits_error": str(error)}
        return super().changelist_view(request, {**context, **(extra_context or {})})
