"""How a message lies in the broker: kombu's JSON, without what every reader assumes anyway.

A stock worker reads it as it is. What is left out: members that say "nothing", base64
around a body that is text, the part of a body that says that nothing follows, spaces.
That halves what a waiting message takes, and spares the work of writing and reading it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

from kombu.utils.json import dumps
from kombu.utils.json import loads as kombu_loads

#: Headers and what a reader takes them for where they are missing.
ASSUMED: Mapping[str, Any] = {
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "parent_id": None,
    "ignore_result": None,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
#: Properties that repeat a header, or say what is true of every message here: that it outlives the server's process.
_NEEDLESS: Mapping[str, Any] = {"delivery_mode": 2, "reply_to": ""}
_REPEATED = ("argsrepr", "kwargsrepr")
#: What Celery puts behind the arguments of a task after which nothing comes.
_NO_EMBED = ', {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
#: The same, as short as it can be said.
SHORT_EMBED = ", {}]"
_SEPARATORS = (",", ":")
#: How kombu marks what JSON has no type for.
_TYPED = '"__type__"'


def loads(text: Any) -> Any:
    """Decode JSON as kombu does, whose own types are rare: looking for them in every object costs more than decoding.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text) if type(text) is str and _TYPED not in text else kombu_loads(text)


def is_task(message: Mapping[str, Any]) -> bool:
    """Whether kombu's message is a task's, of Celery's protocol 2."""
    headers = message.get("headers")
    return isinstance(headers, dict) and "task" in headers and "id" in headers


def tag() -> str:
    """Return a new delivery tag: 72 random bits, by which a stock worker tells messages apart."""
    return secrets.token_urlsafe(9)


def plain_body(message: Mapping[str, Any]) -> str | None:
    """Return a body that can lie in the broker as it is; None for one that needs an encoding."""
    body = message["body"]
    if message.get("content-type") != "application/json" or message["headers"].get("compression"):
        return None
    if isinstance(body, bytes):
        try:
            body = body.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if not isinstance(body, str):
        return None
    return body.removesuffix(_NO_EMBED) + SHORT_EMBED if body.endswith(_NO_EMBED) else body


def text(message: Mapping[str, Any]) -> str:
    """Return what is stored of a message."""
    if not is_task(message):
        return str(dumps(message))
    headers = {
        name: value for name, value in message["headers"].items() if name not in ASSUMED or value != ASSUMED[name]
    }
    properties = {
        name: value
        for name, value in message["properties"].items()
        if name not in _REPEATED and (name not in _NEEDLESS or value != _NEEDLESS[name])
    }
    return str(dumps({**message, "headers": headers, "properties": properties}, separators=_SEPARATORS))
