"""Probes for load balancers and containers. Open to anyone, so they name parts and nothing else."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from orchestrator.monitoring import health
from orchestrator.monitoring.reach import READY


@require_safe
@never_cache
def live(request: HttpRequest) -> HttpResponse:
    """Answer as long as this process answers at all; asks nobody else."""
    return JsonResponse({"status": "healthy"})


@require_safe
@never_cache
def ready(request: HttpRequest) -> HttpResponse:
    """Answer 200 if the database, the broker and the letterbox can be reached, else 503."""
    results = health.run(READY)
    verdict = health.verdict(results)
    return JsonResponse(
        {"status": verdict.word, "checks": {result.name: result.verdict.word for result in results}},
        status=503 if verdict is health.Verdict.UNREACHABLE else 200,
    )
