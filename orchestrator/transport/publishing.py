"""From kombu's message to the broker: where it goes, and what becomes of it when no answer comes."""

from __future__ import annotations

import time
from typing import Any

from kombu.transport import redis as stock

from orchestrator.contracts.errors import Unroutable
from orchestrator.contracts.message import HEADER, ONCE
from orchestrator.transport import delayed, sender, wire


def put(channel: Any, queue: str, message: dict[str, Any], batch: Any) -> None:
    """Store a message in its queue, or where it waits for its time.

    Args:
        batch: gathers the call instead of making it, or None.

    Raises:
        redis.RedisError: the broker did not take it, as far as is known.
    """
    headers = message.get("headers")
    task_id = headers.get("id") if isinstance(headers, dict) else None
    if isinstance(task_id, str) and sender.in_doubt(task_id) and sender.was_sent(channel.raw, task_id):
        return
    ready = channel.keys.ready(queue, channel.priority(channel._get_message_priority(message)))
    left = delayed.seconds_left(headers, time.time())
    call, once, text = channel.sender.call(), _once(headers), wire.text(message)
    if left > delayed.THRESHOLD:
        script = sender.delay_script
        keys, args = sender.delaying(
            channel.keys, call, delayed.name_of(message), int(left * 1000), ready, text, once=once
        )
    else:
        script = sender.publish_script
        keys, args = sender.publication(channel.keys, call, ready, queue, text, once=once)
    if batch is not None:
        batch.carry(call, task_id)
        batch.add("eval", script.text, len(keys), *keys, *args)
        return
    try:
        sender.checked(script(channel.raw, keys=keys, args=args))
    except sender.BROKEN as error:
        if sender.unanswered(error):
            channel.sender.lost(call, _ids(task_id))
        raise


def check_route(channel: Any, message: dict[str, Any], exchange: str, routing_key: str) -> None:
    """Refuse a task's message that no queue would take: kombu would drop it without a word.

    Raises:
        Unroutable: says what was looked for.
    """
    if not exchange or not wire.is_task(message):
        return
    kind = channel.typeof(exchange)
    if kind.type == "fanout" or kind.lookup(channel.get_table(exchange), exchange, routing_key, None):
        return
    headers = message["headers"]
    raise Unroutable(
        f"No queue is bound to exchange {exchange!r} with routing key {routing_key!r}, so nobody would ever get "
        f"{headers['task']}[{headers['id']}]; it was not sent. Declare a queue for it in task_queues "
        "(CELERY_TASK_QUEUES), start a worker that consumes it, or publish with queue=… instead."
    )


class Batch(stock.PublishBatch):  # type: ignore[misc]  # kombu is untyped
    """Kombu's batch, that remembers what it carried when no answer comes."""

    def __init__(self, channel: Any, max_size: int) -> None:
        super().__init__(channel, max_size)
        self._carried: list[tuple[sender.Call, Any]] = []

    def carry(self, call: sender.Call, task_id: Any) -> None:
        """Note a message that travels with the next flush."""
        self._carried.append((call, task_id))

    def flush(self) -> None:
        """Send what gathered."""
        try:
            super().flush()
        except Exception as error:
            if sender.unanswered(error.__cause__):
                for call, task_id in self._carried:
                    self.channel.sender.lost(call, _ids(task_id))
            raise
        finally:
            self._carried.clear()


def _ids(task_id: Any) -> tuple[str, ...]:
    return (task_id,) if isinstance(task_id, str) else ()


def _once(headers: Any) -> str:
    """Return the name of a successor that is to be published once, "" for other messages."""
    ours = headers.get(HEADER) if isinstance(headers, dict) else None
    once = ours.get(ONCE) if isinstance(ours, dict) else None
    return once if isinstance(once, str) else ""
