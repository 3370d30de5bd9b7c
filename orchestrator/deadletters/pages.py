"""The page of one dead letter, and the acts that its buttons post."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from orchestrator.celery import get_app
from orchestrator.contracts.documents import legible
from orchestrator.contracts.errors import AlreadyClosed, OrchestratorError, PayloadUnreadable
from orchestrator.contracts.message import WireMessage
from orchestrator.deadletters import services
from orchestrator.deadletters.forms import DiscardForm, EditForm, shown
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.deadletters.rights import Rights
from orchestrator.deadletters.timeline import timeline

#: Characters of a message that the page holds; the download has all of it.
PAYLOAD_SHOWN = 200_000

TEMPLATES = "admin/orchestrator_deadletters/deadletter"


class LetterPages(Rights):
    """Mixed into the admin of dead letters."""

    admin_site: Any
    model: Any
    opts: Any
    get_object: Callable[..., Any]
    has_view_permission: Callable[..., bool]
    _get_obj_does_not_exist_redirect: Callable[..., HttpResponse]

    def letter_urls(self) -> list[URLPattern]:
        """Return the URLs of the buttons."""
        wrap = self.admin_site.admin_view
        return [
            path("<path:object_id>/redrive/", wrap(self.redrive_view), name="orchestrator_deadletters_redrive"),
            path("<path:object_id>/edit/", wrap(self.edit_view), name="orchestrator_deadletters_edit"),
            path("<path:object_id>/discard/", wrap(self.discard_view), name="orchestrator_deadletters_discard"),
            path("<path:object_id>/payload/", wrap(self.payload_view), name="orchestrator_deadletters_payload"),
        ]

    def related_links(self, letter: DeadLetter) -> list[tuple[str, str]]:
        """Return (label, URL) of pages elsewhere about the same task; the console fills it."""
        return []

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show one letter."""
        letter = self.get_object(request, unquote(object_id))
        if not self.has_view_permission(request, letter):
            raise PermissionDenied
        if letter is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        return self._detail(request, letter)

    def _detail(
        self, request: HttpRequest, letter: DeadLetter, discard_form: DiscardForm | None = None
    ) -> TemplateResponse:
        payload = _payload(letter) if self.has_payload_permission(request) else None
        context = {
            **self.letter_context(request, letter),
            "title": letter.task or "Dead letter",
            "timeline": timeline(letter),
            "links": self.related_links(letter),
            "edits": json.dumps(letter.edits, indent=2, ensure_ascii=False) if letter.edits else "",
            "discard_form": discard_form or DiscardForm(),
            "payload": payload[:PAYLOAD_SHOWN] if payload else payload,
            "payload_size": len(payload or ""),
            "payload_cut": len(payload or "") > PAYLOAD_SHOWN,
        }
        return TemplateResponse(request, f"{TEMPLATES}/detail.html", context)

    def letter_context(self, request: HttpRequest, letter: DeadLetter) -> dict[str, Any]:
        """Return what every page of one letter needs."""
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "letter": letter,
            "rights": self.rights(request),
            "open": letter.state == State.OPEN,
            # A message that names no task has nobody who could run it.
            "redrivable": bool(letter.task),
        }

    # A redrive commits its steps one by one, whatever ATOMIC_REQUESTS says.
    @transaction.non_atomic_requests
    def redrive_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """POST: redrive one letter as it is."""
        self.demand(request, "redrive")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        letter = self.get_object(request, unquote(object_id))
        if letter is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        try:
            new_id = services.redrive(letter.pk, by=request.user)
        except OrchestratorError as error:
            _refused(request, error)
        else:
            messages.success(request, f"Redriven: {letter.task} runs again as {new_id}.")
        return _back(letter)

    @transaction.non_atomic_requests
    def edit_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the arguments as JSON; POST: redrive with what was made of them."""
        self.demand(request, "edit")
        letter = self.get_object(request, unquote(object_id))
        if letter is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        if request.method == "POST":
            form = EditForm(request.POST)
            if form.is_valid():
                return self._redrive_edited(request, letter, form)
        else:
            try:
                args, kwargs, _ = get_app().decode(letter.message)
            except PayloadUnreadable as error:
                _refused(request, error)
                return _back(letter)
            form = EditForm(initial={"args": shown(args), "kwargs": shown(kwargs)})
        return self._edit_page(request, letter, form)

    def _redrive_edited(self, request: HttpRequest, letter: DeadLetter, form: forms.Form) -> HttpResponse:
        try:
            new_id = services.redrive(letter.pk, by=request.user, **form.cleaned_data)
        except AlreadyClosed as error:
            _refused(request, error)
        except OrchestratorError as error:
            if getattr(error, "maybe_sent", False):
                _refused(request, error)
                return _back(letter)
            # The text that was typed stays in the form, so nothing has to be typed twice.
            form.add_error(None, f"{error} Nothing was changed.")
            return self._edit_page(request, letter, form)
        else:
            messages.success(request, f"Redriven with edited arguments: {letter.task} runs again as {new_id}.")
        return _back(letter)

    def _edit_page(self, request: HttpRequest, letter: DeadLetter, form: forms.Form) -> TemplateResponse:
        context = {
            **self.letter_context(request, letter),
            "title": "Redrive with edited arguments",
            "form": form,
        }
        return TemplateResponse(request, f"{TEMPLATES}/edit.html", context)

    def discard_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """POST: close one letter for good, with a reason."""
        self.demand(request, "discard")
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        letter = self.get_object(request, unquote(object_id))
        if letter is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        form = DiscardForm(request.POST)
        if not form.is_valid():
            return self._detail(request, letter, form)
        try:
            services.discard(letter.pk, reason=form.cleaned_data["reason"], by=request.user)
        except OrchestratorError as error:
            _refused(request, error)
        else:
            messages.success(request, f"Discarded: {letter.task} {letter.task_id}.")
        return _back(letter)

    def payload_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Send the exact message as a file."""
        self.demand(request, "payload")
        letter = self.get_object(request, unquote(object_id))
        if letter is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        name = f"dead-letter-{letter.pk}.json"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return HttpResponse(_payload(letter), content_type="application/json", headers=headers)


def _back(letter: DeadLetter) -> HttpResponse:
    return redirect(reverse("admin:orchestrator_deadletters_deadletter_change", args=[letter.pk]))


def _refused(request: HttpRequest, error: OrchestratorError) -> None:
    # A second click on a button is no fault of anybody: it is told what happened, in yellow.
    level = messages.WARNING if isinstance(error, AlreadyClosed) else messages.ERROR
    messages.add_message(request, level, str(error))


def _payload(letter: DeadLetter) -> str:
    """Return the exact message as readable JSON, or why it cannot be shown."""
    try:
        return readable(letter.message)
    except PayloadUnreadable as error:
        return str(error)


def readable(message: WireMessage) -> str:
    """Return a message as indented JSON, with a JSON body opened up."""
    data = message.to_json()
    if data["body_form"] == "text":
        # A body of another serialiser stays the text that it is.
        with suppress(ValueError):
            data["body"] = json.loads(data["body"])
            data["body_form"] = "json"
    return legible(json.dumps(data, indent=2, ensure_ascii=False, default=repr))
