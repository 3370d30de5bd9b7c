"""Waits until web servers really answer."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit


class Readiness:
    """Asks URLs in the background until each has answered once."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        """Prepare without asking.

        Args:
            urls: Name of the service to the URL that is asked.
        """
        self._missing = dict(urls)

    @property
    def missing(self) -> list[str]:
        """Names of the services that have not answered yet."""
        return sorted(self._missing)

    def start(self) -> None:
        """Begin asking."""
        for name, url in list(self._missing.items()):
            threading.Thread(target=self._ask, args=(name, url), daemon=True, name=f"readiness-{name}").start()

    def _ask(self, name: str, url: str) -> None:
        while not answers(url):
            time.sleep(0.1)
        self._missing.pop(name, None)


def answers(url: str, *, timeout: float = 2.0) -> bool:
    """Say whether an HTTP server answers there; a redirect or a refusal for want of a login is an answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status < http.client.INTERNAL_SERVER_ERROR
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
