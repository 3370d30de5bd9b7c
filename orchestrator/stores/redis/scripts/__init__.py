"""Lua scripts: what must happen in Redis in one step. One file a script, loaded as package data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis


class Script:
    """One script by name; usable with any client, in any process."""

    def __init__(self, *names: str, package: str = __name__) -> None:
        """Load ``<name>.lua`` of a package, this one by default; of several, the first define what the last uses."""
        self.text = "\n".join(files(package).joinpath(f"{name}.lua").read_text("utf-8") for name in names)
        self.sha = hashlib.sha1(self.text.encode("utf-8"), usedforsecurity=False).hexdigest()

    def __call__(self, client: redis.Redis, *, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Run it.

        Raises:
            redis.RedisError: the server could not be asked, or refused.
        """
        try:
            return client.evalsha(self.sha, len(keys), *keys, *args)
        except redis.exceptions.NoScriptError:
            # A restarted server has forgotten its scripts; EVAL runs and keeps this one.
            return client.eval(self.text, len(keys), *keys, *args)
