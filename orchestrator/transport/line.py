"""A line: one connection on which a process publishes what it built itself, one call a message or a batch.

It has a kombu channel, for its settings and to declare queues, and one connection of
redis-py's, spoken to without a client around it: that costs less than half.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from orchestrator.stores.redis.direct import packed, readable
from orchestrator.stores.redis.scripts import Script
from orchestrator.transport import delayed, sender, wire
from orchestrator.transport.channel import Channel
from orchestrator.transport.refusals import refusal
from orchestrator.transport.sender import Ready


class Unfit(Exception):
    """This connection does not lead to our transport; publish the ordinary way."""


class Failed(Exception):
    """The broker did not take a message, as far as is known. The cause tells what it, or the connection, said."""

    def __init__(self, message: str, *, maybe_sent: bool, refused: bool = False) -> None:
        """Say what is known: whether it may have been sent all the same, whether the broker answered and refused."""
        super().__init__(message)
        self.maybe_sent = maybe_sent
        self.refused = refused


class Line:
    """One connection to the broker."""

    def __init__(self, connection: Any) -> None:
        """Connect.

        Args:
            connection: a kombu connection, not shared with anybody.

        Raises:
            Unfit: it leads elsewhere.
            OperationalError, redis.RedisError: the broker cannot be reached.
        """
        self._connection = connection
        try:
            # Not by ``channel()``, which waits two seconds and tries again.
            channel = connection.default_channel
            if not isinstance(channel, Channel):
                raise Unfit
            self.channel: Any = channel
            # Kept: where sentinels know the primary, a connection asks its pool, and has no hold on it.
            self._pool = channel.pool
            self._wire = self._pool.make_connection()
            self._wire.retry = Retry(NoBackoff(), 0)
            self._wire.connect()
            # One connection a line: what the channel itself needed was for once.
            channel._disconnect_pools()
        except BaseException:
            connection.close()
            raise
        self.sender = sender.Sender(channel.keys)
        self._declared: set[str] = set()

    def declare(self, queue: Any) -> None:
        """Declare a queue, once for this line.

        Raises:
            Failed: the broker cannot be reached, or refuses; nothing was sent.
        """
        if queue.name not in self._declared:
            try:
                queue(self.channel).declare()
            except (redis.RedisError, OSError) as error:
                raise Failed(str(error), maybe_sent=False, refused=refusal(error) is not None) from error
            self._declared.add(queue.name)
            self.channel._disconnect_pools()

    def ready(self) -> None:
        """Connect again if the server hung up meanwhile: nothing of ours is lost by that.

        Raises:
            redis.RedisError: the broker cannot be reached.
        """
        if readable(self._wire):
            self._wire.disconnect()
            self._wire.connect()
            # A broker that restarted may have forgotten them.
            self._declared.clear()

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script.

        Raises:
            redis.RedisError: no answer came, or the server refused.
        """
        wire = self._wire
        try:
            wire.send_packed_command([packed("EVALSHA", script.sha, len(keys), *keys, *args)], check_health=False)
            return wire.read_response()
        except NoScriptError:
            wire.send_packed_command([packed("EVAL", script.text, len(keys), *keys, *args)], check_health=False)
            return wire.read_response()

    def was_sent(self, task_id: str) -> bool:
        """Whether an earlier publish of this id, that got no answer, was carried out after all; see :mod:`sender`.

        Raises:
            Failed: the broker cannot be asked.
        """
        if not sender.in_doubt(task_id):
            return False
        try:
            return sender.was_sent(self.channel.raw, task_id)
        except sender.BROKEN as error:
            raise Failed(str(error), maybe_sent=True) from error

    def publish(self, queue: Any, message: Ready, event: Sequence[Any] = ()) -> None:
        """Store one message.

        Args:
            event: channel and text of an event that is published with it, or nothing.

        Raises:
            Failed: the broker did not take it, as far as is known.
        """
        keys, call = self.channel.keys, self.sender.call()
        if message.delay_ms:
            script, (named, args) = (
                sender.delay_script,
                sender.delaying(keys, call, message.name, message.delay_ms, message.list, message.text, event=event),
            )
        else:
            script = sender.publish_script
            named, args = sender.publication(keys, call, message.list, queue.name, message.text, event=event)
        self._call(script, call, named, args, (queue,), (message.task_id,))

    def prepared(
        self,
        body: bytes | str,
        routing_key: str,
        *,
        content_type: str,
        content_encoding: str,
        headers: dict[str, Any],
        properties: dict[str, Any],
    ) -> Ready:
        """Return a message for a queue as it is stored."""
        channel = self.channel
        message = channel.prepare_message(
            body, properties.pop("priority", None), content_type, content_encoding, headers, properties
        )
        channel._inplace_augment_message(message, "", routing_key)
        ready = channel.keys.ready(routing_key, channel.priority(channel._get_message_priority(message)))
        left = delayed.seconds_left(headers, time.time())
        waits = left > delayed.THRESHOLD
        return Ready(
            str(headers.get("id") or ""),
            ready,
            wire.text(message),
            delayed.name_of(message) if waits else "",
            int(left * 1000) if waits else 0,
        )

    def told(self, exchange: str, routing_key: str, body: str, headers: dict[str, Any]) -> tuple[str, str]:
        """Return channel and text of something for all who listen to an exchange."""
        channel = self.channel
        message = channel.prepare_message(body, 0, "application/json", "utf-8", headers, {"delivery_mode": 1})
        channel._inplace_augment_message(message, exchange, routing_key)
        topic = channel._get_publish_topics(exchange, routing_key)[0]
        return f"{channel.global_keyprefix}{topic}", wire.text(message)

    def publish_many(self, messages: Sequence[tuple[Any, Ready]], event: Sequence[Any] = ()) -> None:
        """Store all of these messages, each with its queue, or none.

        Raises:
            Failed: the broker did not take them, as far as is known.
        """
        call = self.sender.call()
        named, args = sender.batch(self.channel.keys, call, messages, event)
        queues = {queue.name: queue for queue, _ in messages}.values()
        self._call(sender.many_script, call, named, args, queues, [message.task_id for _, message in messages])

    def _call(
        self,
        script: Script,
        call: sender.Call,
        keys: Sequence[str],
        args: Sequence[Any],
        queues: Iterable[Any],
        ids: Sequence[str],
    ) -> None:
        try:
            for queue in queues:
                self.declare(queue)
            sender.checked(self.run(script, keys, args))
        except redis.ResponseError as error:
            raise Failed(str(error), maybe_sent=False, refused=True) from error
        except sender.BROKEN as error:
            maybe_sent = sender.unanswered(error)
            if maybe_sent:
                self.sender.lost(call, ids)
            raise Failed(str(error), maybe_sent=maybe_sent) from error

    def close(self) -> None:
        """Hang up."""
        self._wire.disconnect()
        self._connection.close()
