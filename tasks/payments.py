"""Payments: charged once, however often they are asked for, and a statement of the day."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

from django.conf import settings

from orchestrator import (
    Breaker,
    Concurrency,
    Deduplicate,
    Idempotent,
    PermanentError,
    RateLimit,
    RateLimited,
    Retries,
    task,
)
from tasks.files import appearing, media_path

#: What another attempt may mend: a provider that is away or busy.
AWAY = (ConnectionError, TimeoutError)
#: A provider that is down is left alone; its payments wait.
PROVIDER = Breaker("payments", minimum=10, window=60, cooldown=30, on=AWAY)
#: Seconds that one answer may take.
TIMEOUT = 10


@task(
    idempotency=Idempotent(key="payment-{order_id}", ttl=timedelta(days=7)),
    breaker=PROVIDER,
    # The provider's contract: five charges a second, one connection.
    limits=[RateLimit("payments", "5/s"), Concurrency("payment connections", 1)],
    retries=Retries(on=AWAY, limit=6, base=1.0, cap=300.0),
)
def charge(order_id: str, amount: str) -> dict[str, str]:
    """Charge an order; asked for twice it is charged once, and both get the receipt.

    The key goes to the provider, too: a process that dies after the charge and before its record asks for the same
    charge again, not for a second one.

    Raises:
        ConnectionError: the provider is away or busy.
        RateLimited: it said "too many"; nobody charges before its time.
        PermanentError: it refused the charge, or its address is none.
    """
    answer = _ask("POST", {"order": order_id, "amount": amount}, key=f"payment-{order_id}")
    return {"order": order_id, "receipt": str(answer["receipt"])}


@task(
    deduplication=Deduplicate("debounce", key="{day}", window=1.0, max_wait=60.0),
    breaker=PROVIDER,
    retries=Retries(on=AWAY, limit=6, base=1.0, cap=300.0),
)
def write_statement(day: str) -> dict[str, Any]:
    """Write the statement of a day once it is quiet, however often it is asked for meanwhile.

    Args:
        day: as in ``2026-11-25``; names the file under ``MEDIA_ROOT``.

    Raises:
        ConnectionError: the provider is away or busy.
    """
    charges = _ask("GET")["charges"]
    with appearing(media_path(f"statements/{day}.json")) as draft:
        draft.write_text(json.dumps(charges, indent=1, sort_keys=True))
    return {"day": day, "charges": len(charges)}


def _ask(method: str, content: dict[str, str] | None = None, key: str = "") -> Any:
    """Return what the provider answers."""
    if not settings.PAYMENT_URL.startswith(("http://", "https://")):
        raise PermanentError(f"PAYMENT_URL = {settings.PAYMENT_URL!r}: set it to the address of the payment provider.")
    body = None if content is None else json.dumps(content).encode()
    headers = {"Content-Type": "application/json", **({"Idempotency-Key": key} if key else {})}
    request = urllib.request.Request(settings.PAYMENT_URL, body, headers, method=method)  # noqa: S310 - checked above
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310 - checked above
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        if refused.code == 429:
            raise RateLimited(retry_after=_seconds(refused.headers.get("Retry-After"))) from None
        if refused.code < 500:
            raise PermanentError(f"The payment provider refused with {refused.code}.") from None
        raise ConnectionError(f"The payment provider answered {refused.code}.") from None
    except urllib.error.URLError as error:
        raise ConnectionError(f"The payment provider cannot be reached: {error.reason}") from None


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a ``Retry-After`` header; one that says a date, or nothing, waits a little."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 5.0
