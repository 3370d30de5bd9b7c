"""A mail server on loopback that counts what it gets."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

LOOPBACK = "127.0.0.1"


class Mailbox:
    """A real SMTP server that asks the first few recipients to wait, as greylisting servers do.

    Args:
        greylisted: How many recipients are refused at their first try.
    """

    def __init__(self, greylisted: int = 0) -> None:
        #: Addresses that were asked to wait.
        self.greylisted: set[str] = set()
        self._to_greylist = greylisted
        self._delivered: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._controller: _Controller | None = None

    @property
    def port(self) -> int:
        """Where it listens, 0 before the start."""
        return int(self._controller.port) if self._controller is not None else 0

    def start(self) -> None:
        """Listen on a free port."""
        self._controller = _Controller(self, hostname=LOOPBACK)
        self._controller.start()

    def stop(self) -> None:
        """Stop listening."""
        if self._controller is not None:
            self._controller.stop()
            self._controller = None

    def delivered(self) -> dict[str, int]:
        """Return how many messages each address got so far."""
        with self._lock:
            return dict(self._delivered)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Accept a recipient, or ask to come back."""
        if address not in self.greylisted and len(self.greylisted) < self._to_greylist:
            self.greylisted.add(address)
            return "450 4.2.1 Greylisted, please come back"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a message."""
        with self._lock:
            self._delivered.update(envelope.rcpt_tos)
        return "250 2.0.0 Taken"


class _Controller(Controller):
    """aiosmtpd's own needs the port beforehand; a socket bound to port 0 leaves no gap for somebody else."""

    def __init__(self, handler: Any, hostname: str) -> None:
        self._socket = socket.create_server((hostname, 0))
        super().__init__(handler, hostname=hostname, port=self._socket.getsockname()[1])

    def _create_server(self) -> Any:
        return self.loop.create_server(self._factory_invoker, sock=self._socket)
