"""The entry points that servers load."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.testing import ApplicationCommunicator

from orchestrator.asgi import application as asgi
from orchestrator.wsgi import application as wsgi


def test_wsgi_answers() -> None:
    """The root leads to the admin."""
    said: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        said.update(status=status, **dict(headers))

    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
    list(wsgi(environ, start_response))
    assert (said["status"], said["Location"]) == ("302 Found", "/admin/")


def test_asgi_answers() -> None:
    """So does it under an asynchronous server."""

    async def ask() -> Any:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"host", b"127.0.0.1")],
            "query_string": b"",
        }
        server = ApplicationCommunicator(asgi, scope)
        await server.send_input({"type": "http.request", "body": b""})
        start = await server.receive_output(30)
        await server.receive_output(30)
        await server.wait(30)
        return start

    # In a thread of its own: the browser tests leave an event loop in this one.
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(asyncio.run, ask()).result(60)
    assert start["status"] == 302
    assert (b"Location", b"/admin/") in start["headers"]
