"""Tags that read across the apps."""

from __future__ import annotations

from typing import Any

from django import template

from orchestrator.console import links

register = template.Library()


@register.simple_tag
def open_letters(user: Any) -> str:
    """Return how many dead letters wait for somebody, as text; see :func:`orchestrator.console.links.open_letters`."""
    return links.open_letters(user)
