"""A visitor of a real HTTP server: cookies, tokens, no redirects followed behind one's back."""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    text: str
    headers: Message

    @property
    def location(self) -> str:
        """Where a redirect leads."""
        return str(self.headers.get("Location", ""))


@dataclass
class Visitor:
    """Talks to one server and keeps its cookies, as a browser does."""

    url: str
    cookies: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET a path."""
        return self.ask("GET", path, headers=headers)

    def post(
        self,
        path: str,
        data: Mapping[str, str] | str = "",
        *,
        headers: Mapping[str, str] | None = None,
        token: bool = True,
    ) -> Answer:
        """POST a form, or text as it is, with the XSRF token that a script of the page would send."""
        form = not isinstance(data, str)
        sent = {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
        if token:
            if "_xsrf" not in self.cookies:
                self.get("/login")
            sent["X-XSRFToken"] = self.cookies["_xsrf"]
        return self.ask(
            "POST", path, urlencode(data) if not isinstance(data, str) else data, sent | dict(headers or {})
        )

    def ask(self, method: str, path: str, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
        """Send one request."""
        place = urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items()), **(headers or {})}
        try:
            connection.request(method, path, body.encode() or None, sent)
            response = connection.getresponse()
            for name, value in response.getheaders():
                if name.lower() == "set-cookie":
                    self._keep(value)
            return Answer(response.status, response.read().decode(errors="replace"), response.headers)
        finally:
            connection.close()

    def log_in(self, name: str, password: str, path: str = "/login", following: str = "/") -> Answer:
        """Fill in Flower's login form."""
        return self.post(path, {"username": name, "password": password, "next": following})

    def _keep(self, header: str) -> None:
        for name, morsel in SimpleCookie(header).items():
            if morsel.value and morsel["max-age"] != "0" and not re.search(r"expires=\w+, \d+ \w+ (19|20[01])", header):
                self.cookies[name] = morsel.value
            else:
                self.cookies.pop(name, None)
