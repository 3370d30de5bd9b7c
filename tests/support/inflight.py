"""What workers hold, on whichever transport this run uses."""

from __future__ import annotations

from typing import Any

from orchestrator import conf
from orchestrator.transport import inflight
from orchestrator.transport.keys import Keys


def count(client: Any) -> int:
    """Return how many messages are taken and not acknowledged: on our transport and on kombu's."""
    return inflight.count(client, Keys("", conf.settings().key_prefix)) + int(client.hlen("unacked"))
