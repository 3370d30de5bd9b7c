"""A payment provider: a real HTTP server that honours idempotency keys, as the real ones do."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from uuid import uuid4


class Provider:
    """Charges each key once and answers a repeated key with the first receipt."""

    def __init__(self) -> None:
        self.charges: Counter[str] = Counter()
        #: Order -> keys under which it came.
        self.keys: defaultdict[str, set[str]] = defaultdict(set)
        self.requests = 0
        self._receipts: dict[str, str] = {}
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["order"]
                answer = json.dumps({"receipt": provider.charge(order, self.headers["Idempotency-Key"])}).encode()
                # Who asked may be dead by now.
                with suppress(ConnectionError):
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing: the count is the record."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def charge(self, order: str, key: str) -> str:
        """Charge, unless this key was seen before."""
        with self._lock:
            self.requests += 1
            self.keys[order].add(key)
            if key not in self._receipts:
                self._receipts[key] = uuid4().hex
                self.charges[order] += 1
            return self._receipts[key]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
