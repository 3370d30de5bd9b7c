"""URLs of a web process that publishes: the project's own, and one view that asks for a task."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path

from orchestrator.urls import urlpatterns as project
from tests.chaos.tasks import work


def ask(request: HttpRequest) -> JsonResponse:
    """Publish one task and confirm it."""
    given = request.GET
    result = work.apply_async((given["id"], float(given["seconds"]), given["how"]), task_id=given["id"])
    return JsonResponse({"id": result.id})


urlpatterns = [*project, path("ask/", ask)]
