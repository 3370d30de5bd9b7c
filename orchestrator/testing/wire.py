"""What JSON makes of arguments on their way to a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kombu.serialization import dumps, loads


def over_the_wire(args: Iterable[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments as a worker receives them.

    Raises:
        EncodeError: they are not JSON.
    """
    content_type, encoding, body = dumps([list(args), dict(kwargs)], serializer="json")
    received_args, received_kwargs = loads(body, content_type, encoding, accept=("application/json",))
    return received_args, received_kwargs
