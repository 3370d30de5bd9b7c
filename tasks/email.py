"""E-mail campaigns: one message, and one task, per recipient."""

from __future__ import annotations

import re
import smtplib
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email
from django.utils.crypto import salted_hmac

from orchestrator import PermanentError, Retries, task


class TemporaryRefusal(Exception):
    """The mail server said "not now" (a reply of the 400s), as greylisting servers do at first."""


#: What another attempt may mend: a server that is away, busy, or asks for patience.
WORTH_A_RETRY = Retries(
    on=(TemporaryRefusal, smtplib.SMTPServerDisconnected, ConnectionError, TimeoutError),
    limit=6,
    base=1.0,
    factor=3.0,
    cap=900.0,
)


@task(sensitive=("recipients",))
def send_campaign(campaign: str, subject: str, body: str, recipients: list[str]) -> dict[str, Any]:
    """Send one message to each recipient, whoever is named twice once.

    Args:
        campaign: Name of the campaign; with the address it makes the Message-ID.
    """
    addresses = list({address.strip().casefold(): address.strip() for address in recipients}.values())
    for address in addresses:
        send_message.delay(campaign=campaign, subject=subject, body=body, recipient=address)
    return {"campaign": campaign, "messages": len(addresses)}


@task(sensitive=("recipient",), retries=WORTH_A_RETRY)
def send_message(campaign: str, subject: str, body: str, recipient: str) -> dict[str, str]:
    """Hand one message to the mail server.

    Errors never carry the address or the server's text, which often repeats it.

    Raises:
        PermanentError: the address is malformed or the server refused for good (a reply of the 500s).
        TemporaryRefusal: the server refused for now.
    """
    try:
        validate_email(recipient)
    except ValidationError:
        raise PermanentError("The recipient's address is not valid; redrive with a mended one.") from None
    message_id = _message_id(campaign, recipient)
    message = EmailMessage(subject=subject, body=body, to=[recipient], headers={"Message-ID": message_id})
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as refused:
        code, text = next(iter(refused.recipients.values()))
        raise _refusal("the recipient", code, text) from None
    except smtplib.SMTPResponseException as refused:
        raise _refusal("the message", refused.smtp_code, refused.smtp_error) from None
    return {"message_id": message_id}


def _message_id(campaign: str, recipient: str) -> str:
    """Return the same id for the same campaign and address, so that the far side can drop a second copy."""
    digest = salted_hmac("tasks.email", f"{campaign}\0{recipient.casefold()}", algorithm="sha256").hexdigest()
    return f"<{digest[:40]}@{settings.DEFAULT_FROM_EMAIL.rpartition('@')[2]}>"


def _refusal(what: str, code: int, text: bytes | str) -> Exception:
    """Return the error for a server's reply: 400s may pass, 500s will not (RFC 5321, 4.2.1)."""
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    detail = re.match(r"\d\.\d{1,3}\.\d{1,3}", said)
    reply = f"{code} {detail[0]}" if detail else str(code)
    if 400 <= code < 500:
        return TemporaryRefusal(f"The mail server refused {what} for now: {reply}.")
    return PermanentError(f"The mail server refused {what} for good: {reply}.")
