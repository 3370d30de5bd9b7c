"""``tasks.email`` against a real SMTP server on loopback, without a worker."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator import PermanentError
from tasks.email import TemporaryRefusal, send_message
from tests.support.mailserver import MailServer

ADDRESS = "reader@example.com"


@pytest.fixture
def server(settings: Any) -> Iterator[MailServer]:
    with MailServer() as server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = server.host, server.port
        yield server


def send(recipient: str = ADDRESS, campaign: str = "spring") -> dict[str, str]:
    sent: dict[str, str] = send_message(campaign=campaign, subject="Hello", body="Text", recipient=recipient)
    return sent


def test_a_message_arrives_with_the_same_id_every_time(server: MailServer) -> None:
    first, second, other = send(), send(ADDRESS.upper()), send(campaign="summer")
    assert first == second != other
    assert [(message["To"], message["Message-ID"]) for message in server.messages[:1]] == [
        (ADDRESS, first["message_id"])
    ]
    assert "reader" not in first["message_id"]


@pytest.mark.parametrize(
    ("stage", "reply", "error", "said"),
    [
        ("rcpt", f"550 5.1.1 <{ADDRESS}> is unknown", PermanentError, "refused the recipient for good: 550 5.1.1."),
        ("rcpt", f"450 4.2.1 {ADDRESS} later", TemporaryRefusal, "refused the recipient for now: 450 4.2.1."),
        ("data", f"554 5.7.1 {ADDRESS} looks like spam", PermanentError, "refused the message for good: 554 5.7.1."),
        ("data", f"451 {ADDRESS}: try again", TemporaryRefusal, "refused the message for now: 451."),
        ("mail", "421 4.7.0 too busy", TemporaryRefusal, "refused the message for now: 421 4.7.0."),
    ],
)
def test_a_refusal_says_whether_it_may_pass_and_not_whom(
    server: MailServer, stage: str, reply: str, error: type[Exception], said: str
) -> None:
    server.replies[stage] = reply
    with pytest.raises(error) as raised:
        send()
    assert str(raised.value) == f"The mail server {said}"
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("recipient", ["nobody", "a@b@c", "two@example.com\nBcc: three@example.com", ""])
def test_a_malformed_address_is_never_tried(server: MailServer, recipient: str) -> None:
    with pytest.raises(PermanentError, match="address is not valid"):
        send(recipient)
    assert server.messages == []


def test_a_server_that_is_away_is_worth_a_retry(settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.EMAIL_HOST, settings.EMAIL_PORT = taken.getsockname()
    with pytest.raises(send_message.retries.on):
        send()


def test_a_server_that_hangs_up_is_worth_a_retry(server: MailServer) -> None:
    server.hang_up = True
    with pytest.raises(send_message.retries.on) as raised:
        send()
    assert isinstance(raised.value, smtplib.SMTPServerDisconnected)
