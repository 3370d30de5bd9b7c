"""The one column that holds a payload: of a dead letter, of a message in the outbox.

A stored payload is ``codec:data``. Today there is ``plain``; an encrypting codec
can be added beside it, and rows of both kinds live side by side, so encryption
will need no migration of meaning.
"""

from __future__ import annotations

import json

from orchestrator.contracts.errors import PayloadUnreadable
from orchestrator.contracts.message import WireMessage

PLAIN = "plain"


def seal(message: WireMessage) -> str:
    """Return the column value for a message."""
    return f"{PLAIN}:{json.dumps(message.to_json(), separators=(',', ':'))}"


def unseal(column: str) -> WireMessage:
    """Return the message of a column value.

    Raises:
        PayloadUnreadable: the codec is unknown or the data is damaged.
    """
    codec, _, data = column.partition(":")
    if codec != PLAIN:
        raise PayloadUnreadable(f"The payload is stored with codec {codec!r}, which this release does not know.")
    try:
        return WireMessage.from_json(json.loads(data))
    except (ValueError, KeyError, TypeError) as error:
        raise PayloadUnreadable(f"The stored payload is damaged: {error!r}") from error
