"""Scripts that are in no file of the package."""

from __future__ import annotations

import hashlib

from orchestrator.stores.redis.scripts import Script


def script(text: str) -> Script:
    """Return a script with this text."""
    made = Script("lease_renew")
    made.text, made.sha = text, hashlib.sha1(text.encode()).hexdigest()
    return made
