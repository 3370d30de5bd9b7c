"""Which transport a URL's scheme means: kombu is told by name, and asks when it connects first."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from kombu.serialization import registry
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.json import loads

from orchestrator import conf
from orchestrator.transport import wire

#: Scheme -> our transport and kombu's own.
_OURS = "orchestrator.transport.transport:Transport"
_PATHS = {
    "redis": (_OURS, "kombu.transport.redis:Transport"),
    "rediss": (_OURS, "kombu.transport.redis:Transport"),
    "sentinel": (
        "orchestrator.transport.transport:SentinelTransport",
        "kombu.transport.redis:SentinelTransport",
    ),
}

_JSON = "application/json"
#: The schemes that may mean our transport.
OURS = frozenset(_PATHS)


def register() -> None:
    """Make ``ORCHESTRATOR["TRANSPORT"]`` decide, in this process, before its first connection."""
    aliases = cast("dict[str, str | Callable[[], str]]", TRANSPORT_ALIASES)
    for scheme in _PATHS:
        aliases[scheme] = _chooser(scheme)
    # A project's own way to read JSON stays.
    if registry._decoders.get(_JSON) is loads:
        registry._decoders[_JSON] = wire.loads


def _chooser(scheme: str) -> Callable[[], str]:
    def choose() -> str:
        ours, stock = _PATHS[scheme]
        return ours if conf.settings().transport == "orchestrator" else stock

    return choose
