"""A network that can be cut: a TCP proxy on this machine that forwards, or keeps everything to itself."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from orchestrator.launch.ports import LOOPBACK

_CHUNK = 65536


class Proxy:
    """Leads to a port of this machine.

    Cut, it accepts connections and takes what it is sent, and forwards nothing, in either
    direction, without closing anything: what a firewall that drops packets looks like from
    both ends.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._gate = threading.Event()
        self._gate.set()
        self._gates = [self._gate]
        self._listener = socket.create_server((LOOPBACK, 0), backlog=256)
        self._sockets: set[socket.socket] = set()
        #: Where to connect instead.
        self.port = int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Forward nothing from now on."""
        self._gate.clear()

    def heal(self, *, late: bool) -> None:
        """Forward again.

        Args:
            late: also what was kept, as a network does that repeats what it lost; else the connections that were
                there stay dead without a word, as behind a firewall that forgot them.
        """
        if late:
            self._gate.set()
        else:
            self._gate = threading.Event()
            self._gate.set()
            self._gates.append(self._gate)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for gate in self._gates:
            gate.set()
        for end in list(self._sockets):
            _close(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(client, self._gate), daemon=True).start()

    def _lead(self, client: socket.socket, gate: threading.Event) -> None:
        gate.wait()
        try:
            server = socket.create_connection((LOOPBACK, self._target))
        except OSError:
            _close(client)
            return
        self._sockets.update((client, server))
        threading.Thread(target=self._pump, args=(server, client, gate), daemon=True).start()
        self._pump(client, server, gate)

    def _pump(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                gate.wait()
                sink.sendall(data)
        # The end of one direction is news, too, and travels no faster.
        gate.wait()
        for end in (source, sink):
            self._sockets.discard(end)
            _close(end)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
