"""The entry points that servers load."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
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


@pytest.mark.parametrize(
    ("origins", "secure"),
    [("", False), ("https://jobs.example.org", True), ("https://jobs.example.org,http://10.0.0.1:8000", False)],
)
def test_cookies_stay_in_tls_where_people_come_by_it(origins: str, secure: bool, tmp_path: Path) -> None:
    """And only there: over plain http nobody could log in."""
    code = "from orchestrator import settings as s; print(s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE)"
    env = {**os.environ, "ORCHESTRATOR_TRUSTED_ORIGINS": origins, "ORCHESTRATOR_DATA_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(secure)] * 2
