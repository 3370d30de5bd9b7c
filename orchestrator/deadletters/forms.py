"""Forms of the dead-letter pages."""

from __future__ import annotations

from typing import Any

from django import forms
from kombu.utils import json as wire

from orchestrator.contracts.documents import legible, parse_document
from orchestrator.contracts.errors import InvalidOption


class DocumentField(forms.CharField):
    """A text area for one JSON document of a given kind.

    Kombu's forms for what JSON lacks (``{"__type__": "datetime", …}``) are kept.
    """

    def __init__(self, *, kind: type, **kwargs: Any) -> None:
        self.kind = kind
        attrs = {"rows": 8, "cols": 80, "spellcheck": "false", "class": "orchestrator-json"}
        # An empty field gets the same kind of message as a broken one, not "this field is required".
        super().__init__(required=False, strip=False, widget=forms.Textarea(attrs=attrs), **kwargs)

    def clean(self, value: Any) -> Any:
        """Return the parsed document.

        Raises:
            ValidationError: it cannot be read as what it should be.
        """
        try:
            return parse_document(value or "", self.kind, wire.object_hook)
        except InvalidOption as error:
            raise forms.ValidationError(f"{error} Nothing was changed.") from error


class EditForm(forms.Form):
    """Arguments to redrive with."""

    args = DocumentField(kind=list, label="Positional arguments")
    kwargs = DocumentField(kind=dict, label="Keyword arguments")


class DiscardForm(forms.Form):
    """Why a letter is closed for good."""

    reason = forms.CharField(
        max_length=500,
        label="Reason",
        widget=forms.TextInput(attrs={"class": "vTextField", "placeholder": "Why it needs no redrive"}),
        error_messages={"required": "Give a reason: a discarded letter is closed for good. Nothing was changed."},
    )


def shown(value: Any) -> str:
    """Return arguments as JSON to edit."""
    return legible(wire.dumps(value, indent=2, ensure_ascii=False))
