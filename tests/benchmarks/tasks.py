"""Tasks that do nothing, so that what is measured is everything around them."""

from celery import shared_task


@shared_task(ignore_result=True)
def noop() -> None:
    """Return at once."""
