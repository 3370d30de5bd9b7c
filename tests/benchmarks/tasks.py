"""Tasks that do nothing, so that what is measured is everything around them."""

from celery import shared_task

from tests.support import far_side


@shared_task(ignore_result=True)
def noop() -> None:
    """Return at once."""


@shared_task
def kept(number: int = 7) -> int:
    """Return something small, which is kept."""
    return number


@shared_task(ignore_result=True)
def note_start(key: str, sent: float) -> None:
    """Note when it started, and when it was sent."""
    far_side.record(key, sent=sent)
