"""Messages between the processes of a swarm: one JSON object a line, over a socket that never blocks its writer."""

from __future__ import annotations

import json
import socket
from collections import deque
from typing import Any


class Lines:
    """One end of a socket pair."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._read = b""
        self._unsent: deque[bytes] = deque()
        #: Whether the other side has gone.
        self.ended = False

    def fileno(self) -> int:
        """Descriptor to wait for."""
        return self._end.fileno()

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, or keep it until :meth:`flush` while the other side is slow."""
        self._unsent.append(json.dumps(message).encode() + b"\n")
        self.flush()

    def flush(self) -> None:
        """Send what is kept, as far as it goes."""
        while self._unsent:
            raw = self._unsent[0]
            try:
                sent = self._end.send(raw)
            except BlockingIOError:
                return
            except OSError:
                self.ended = True
                self._unsent.clear()
                return
            if sent == len(raw):
                self._unsent.popleft()
            else:
                self._unsent[0] = raw[sent:]

    def forget(self) -> None:
        """Drop what is kept and what has half arrived: the process on the other side is another one now."""
        self._unsent.clear()
        self._read = b""

    def receive(self) -> list[dict[str, Any]]:
        """Return the messages that have come."""
        while True:
            try:
                got = self._end.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                got = b""
            if not got:
                self.ended = True
                break
            self._read += got
        *lines, self._read = self._read.split(b"\n")
        return [json.loads(line) for line in lines]


def pair() -> tuple[Lines, Lines]:
    """Return two connected ends."""
    one, other = socket.socketpair()
    return Lines(one), Lines(other)
