"""A broker's address as the stores read it: Celery says in settings what they need to find in the URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

#: What of a URL's scheme means a Redis or Valkey.
SCHEMES = ("redis://", "rediss://", "sentinel://", "unix://", "redis+socket://", "socket://")


def as_redis(url: str, options: Mapping[str, Any] | None = None, tls: Any = None) -> str:
    """Return a broker's URL so that the URL alone says all.

    Args:
        options: ``broker_transport_options``, which name the primary that sentinels watch.
        tls: ``broker_use_ssl``: True, or a mapping of ``ssl_…`` options.
    """
    options = options or {}
    scheme, _, rest = url.partition("://")
    if scheme in ("redis+socket", "socket"):
        return f"unix://{rest}"
    wanted: dict[str, str] = {}
    if scheme == "sentinel":
        wanted["master_name"] = str(options.get("master_name") or "")
        for name, value in (options.get("sentinel_kwargs") or {}).items():
            if name in ("username", "password") or name.startswith("ssl"):
                wanted[f"sentinel_{name}"] = _name(value) if name == "ssl_cert_reqs" else str(value or "")
    if tls and scheme in ("redis", "rediss", "sentinel"):
        scheme = scheme.replace("redis", "rediss") if scheme == "redis" else scheme
        given = tls if isinstance(tls, Mapping) else {}
        wanted["ssl_cert_reqs"] = _name(given.get("ssl_cert_reqs", "required"))
        wanted |= {name: str(value) for name, value in given.items() if name.startswith("ssl_") and name not in wanted}
    rest, _, query = rest.partition("?")
    said = dict(parse_qsl(query))
    # What the URL says itself counts.
    asked = urlencode({name: value for name, value in {**wanted, **said}.items() if value})
    return f"{scheme}://{rest}" + (f"?{asked}" if asked else "")


def _name(cert_reqs: Any) -> str:
    """Return what a URL calls a way to check certificates: the settings have a constant of Python's ``ssl``."""
    return str(getattr(cert_reqs, "name", None) or cert_reqs or "none").removeprefix("CERT_").lower()
