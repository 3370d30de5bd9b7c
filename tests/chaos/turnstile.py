"""A far side with a limit: a real HTTP server that notes who came when, and who was inside together."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import psutil


class Turnstile:
    """Notes arrivals, and processes that entered and have not left."""

    def __init__(self) -> None:
        #: Seconds since the epoch, in order.
        self.arrivals: list[float] = []
        self.keys: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        #: Keys that entered while another living process was inside.
        self.together: list[str] = []
        self._inside: dict[str, int] = {}
        self._lock = threading.Lock()
        turnstile = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                at = time.time()
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                turnstile.note(at, self.path, told["key"], told["pid"])
                self.send_response(204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing: the notes are the record."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def note(self, at: float, path: str, key: str, pid: int) -> None:
        """Take one request down."""
        with self._lock:
            if path == "/leave":
                self.left[key] += 1
                self._inside.pop(key, None)
                return
            if path == "/enter":
                if any(_lives(other) for name, other in self._inside.items() if name != key):
                    self.together.append(key)
                self._inside[key] = pid
                return
            self.arrivals.append(at)
            self.keys[key] += 1

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _lives(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False
