"""One message that Celery builds with marks instead of values, and that goes nowhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kombu.messaging import Producer

from orchestrator.contracts.message import HEADER as OUR_HEADER

BODY, ID, ROOT, PARENT, ARGS, KWARGS = "body", "id", "root_id", "parent_id", "argsrepr", "kwargsrepr"
HEADER, REPLY, TAG, ETA, CLOCK, OFFSET, TIME = "header", "reply_to", "tag", "eta", "clock", "utcoffset", "timestamp"

_VALUES: Mapping[str, str] = {
    name: f"@orchestrator:{name}@"
    for name in (BODY, ID, ROOT, PARENT, ARGS, KWARGS, HEADER, REPLY, TAG, ETA, CLOCK, OFFSET, TIME)
}
#: Name of a gap -> the mark as it stands in a text, quotes and all.
MARKS: Mapping[str, str] = {name: json.dumps(value) for name, value in _VALUES.items()}


@dataclass
class Probe:
    """What Celery built: the message, its event, and where they would have gone."""

    exchange: str = ""
    routing_key: str = ""
    queue: Any = None
    message: dict[str, Any] = field(default_factory=dict)
    event: str = ""
    event_exchange: str = ""
    event_key: str = ""
    envelope: dict[str, Any] = field(default_factory=dict)


class _Channel:
    """Prepares messages as a channel of ours does, and keeps them."""

    def __init__(self, real: Any, probe: Probe) -> None:
        self._real = real
        self._probe = probe
        self.connection = real.connection
        self.prepare_message = real.prepare_message

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **_: Any) -> None:
        probe = self._probe
        plain = message["body"]
        self._real._inplace_augment_message(message, exchange, routing_key)
        message["properties"]["delivery_tag"] = _VALUES[TAG]
        message["body"] = _VALUES[BODY]
        if not probe.message:
            probe.message, probe.exchange, probe.routing_key = message, exchange, routing_key
            return
        event = json.loads(plain)
        event.update({name: _VALUES[name] for name in (CLOCK, OFFSET, TIME)})
        probe.event, probe.envelope = json.dumps(event), message
        probe.event_exchange, probe.event_key = exchange, routing_key


class _Producer(Producer):
    """A producer that declares nothing and sends nothing."""

    def __init__(self, channel: _Channel, probe: Probe) -> None:
        self._probe = probe
        super().__init__(channel, auto_declare=False)  # type: ignore[no-untyped-call]

    def revive(self, channel: Any) -> None:
        """Take the channel as it is."""
        self._channel = channel

    def maybe_declare(self, entity: Any, retry: bool = False, **retry_policy: Any) -> None:
        """Note what would have been declared."""
        if not self._probe.message and self._probe.queue is None:
            self._probe.queue = entity


def build(app: Any, channel: Any, name: str, task: Any, options: dict[str, Any], *, inside: bool, timed: bool) -> Probe:
    """Let Celery build a message.

    Args:
        channel: one of our transport.
        options: of ``send_task``, the same for all messages of this kind.
        inside: whether it is published by a task that runs.
        timed: whether it has an ETA.
    """
    probe = Probe()
    values = _VALUES
    known = {**options, "root_id": values[ROOT], "argsrepr": values[ARGS], "kwargsrepr": values[KWARGS]}
    if inside:
        known["parent_id"] = values[PARENT]
    if timed:
        known["eta"] = values[ETA]
    app.send_unchanged(
        name,
        (),
        {},
        task_id=values[ID],
        **{
            **known,
            "task_type": task,
            "producer": _Producer(_Channel(channel, probe), probe),
            "retry": False,
            "reply_to": values[REPLY] if app.thread_oid else None,
            "headers": {OUR_HEADER: values[HEADER]},
            "add_to_parent": False,
        },
    )
    return probe
