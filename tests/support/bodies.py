"""Bodies of messages that lie in the broker, whoever published them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any


def body_of(message: Mapping[str, Any]) -> bytes:
    """Return a message's body as it was serialised: ours lies there as text, kombu's in base64."""
    encoded = message["properties"].get("body_encoding") == "base64"
    return base64.b64decode(message["body"]) if encoded else message["body"].encode()
