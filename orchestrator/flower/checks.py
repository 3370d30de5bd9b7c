"""System checks around Flower."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, Warning, register

#: Flower's own switch; it lives in the environment of the Flower process and nowhere else.
OPEN_API = "FLOWER_UNAUTHENTICATED_API"


@register(Tags.security)
def unauthenticated_api(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[CheckMessage]:
    """Warn where stock Flower would let anybody run tasks and shut workers down."""
    value = os.environ.get(OPEN_API, "")
    if value.strip().lower() not in ("1", "t", "true", "y", "yes", "on"):
        return []
    return [
        Warning(
            f"{OPEN_API}={value} opens the API of stock Flower to everybody, any web page included: "
            "it runs every task with any arguments, and in this mode Flower checks no XSRF token.",
            hint=f"Unset {OPEN_API}. 'manage.py flower' ignores it; 'celery flower' does not, "
            "so give that one --basic-auth and let your proxy add the header.",
            id="orchestrator_flower.W001",
        )
    ]
