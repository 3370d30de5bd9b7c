"""A payment provider on loopback that honours idempotency keys and counts its charges."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

from orchestrator.demo.mailbox import LOOPBACK

#: Seconds that the first charge takes, so that others meet it, and that each further one does.
TAKING = (0.6, 0.05)
#: Seconds by which one request may be longer on its way than another.
WAY = 0.05


class Till:
    """A real HTTP server: a charge under a key that it has seen is answered with the first receipt."""

    def __init__(self) -> None:
        self._charges: Counter[str] = Counter()
        self._receipts: dict[str, str] = {}
        self._at_once = 0
        #: Requests that were there at the same time, at most.
        self.most_at_once = 0
        self._arrivals: list[float] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where it listens, '' before the start."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}/charges" if self._server is not None else ""

    def start(self) -> None:
        """Listen on a free port."""
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, name="demo-till", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def charge(self, order: str, key: str) -> str:
        """Charge an order, unless this key was seen before, and return the receipt."""
        with self._lock:
            taking = TAKING[bool(self._arrivals)]
            self._arrivals.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(taking)
        with self._lock:
            self._at_once -= 1
            if key not in self._receipts:
                self._receipts[key] = uuid4().hex[:12]
                self._charges[order] += 1
            return self._receipts[key]

    def charges(self) -> dict[str, int]:
        """Return how often each order was charged."""
        with self._lock:
            return dict(self._charges)

    def most_in_a_second(self) -> int:
        """Return how many requests came within one second, wherever it begins, at most; less what the way takes."""
        with self._lock:
            arrivals = list(self._arrivals)
        return max((sum(1 for at in arrivals if begin <= at < begin + 1 - WAY) for begin in arrivals), default=0)


def _handler(till: Till) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["order"]
            self._answer({"receipt": till.charge(order, self.headers["Idempotency-Key"])})

        def do_GET(self) -> None:
            self._answer({"charges": till.charges()})

        def _answer(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing: the counts are the record."""

    return Handler
