"""A real mail server on loopback that keeps what it gets and refuses as told."""

from __future__ import annotations

import email
import socket
from email.message import Message
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session


class MailServer:
    """Context manager. ``replies[stage]`` (mail, rcpt, data) is what it answers instead of taking."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.replies: dict[str, str] = {}
        self.hang_up = False
        self._controller = _Controller(self, self.host)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._controller.port)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a sender, refuse it, or hang up."""
        if self.hang_up:
            server.transport.abort()
            return "421 unheard"
        envelope.mail_from = address
        return self.replies.get("mail", "250 OK")

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient or refuse it."""
        if "rcpt" in self.replies:
            return self.replies["rcpt"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a message or refuse it."""
        if "data" in self.replies:
            return self.replies["data"]
        content: Any = envelope.content
        self.messages.append(email.message_from_bytes(content))
        return "250 OK"


class _Controller(Controller):
    def __init__(self, handler: MailServer, hostname: str) -> None:
        self._socket = socket.create_server((hostname, 0))
        super().__init__(handler, hostname=hostname, port=self._socket.getsockname()[1])

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)
