"""Which sockets a consuming loop waits for, and when it claims."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from kombu.transport import redis as stock

from orchestrator.transport import office
from orchestrator.transport.clients import refused_is_lost

#: How the bell is named among kombu's kinds of sockets.
BELL = "BELL"


class Bell:
    """A descriptor that is readable while messages wait in this process, so that the loop does not sleep."""

    def __init__(self) -> None:
        self.fd, self._other = os.pipe()
        self._rings = False

    def ring(self, wanted: bool) -> None:
        """Make it readable, or not."""
        if wanted != self._rings:
            if wanted:
                os.write(self._other, b"x")
            else:
                os.read(self.fd, 1)
            self._rings = wanted

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.fd)
        os.close(self._other)


class Poller(stock.MultiChannelPoller):  # type: ignore[misc]  # kombu is untyped
    """Kombu's poller, for channels of which some claim."""

    def __init__(self) -> None:
        super().__init__()
        self._bell: Bell | None = Bell()
        self._fd_to_chan[self._bell.fd] = (None, BELL)
        #: Whether an event loop waits for our sockets; it is told of each of them once.
        self.evented = False
        self._told: set[int] = set()

    @property
    def fds(self) -> dict[int, Any]:
        """Sockets to wait for; in an event loop only those that it does not know of."""
        wanted: dict[int, Any] = stock.MultiChannelPoller.fds.fget(self)
        if not self.evented:
            return wanted
        fresh = {fd: channel for fd, channel in wanted.items() if fd not in self._told}
        self._told = set(wanted)
        return fresh

    def _register(self, channel: Any, client: Any, type: str) -> None:
        super()._register(channel, client, type)
        self._told.discard(self._chan_to_sock[(channel, client, type)].fileno())

    def close(self) -> None:
        """Forget all sockets."""
        super().close()
        if self._bell is not None:
            # It may never have been registered, or the poller may be closed.
            with contextlib.suppress(KeyError, ValueError, OSError):
                self.poller.unregister(self._bell.fd)
            self._bell.close()
            self._bell = None

    def on_poll_start(self) -> None:
        """Claim, or wait for a wake-up; called once in each turn of the loop, before it sleeps."""
        self._update_brpop_polling()
        waiting = False
        for channel in list(self._channels):
            if channel.claiming:
                waiting = self._claim(channel) or waiting
            elif channel.active_queues and channel.qos.can_consume():
                self._register_BRPOP(channel)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)
        if not waiting:
            office.hasten()
        if self._bell is not None:
            self._bell.ring(waiting)

    def _claim(self, channel: Any) -> bool:
        """Return whether there is something to deliver now."""
        with refused_is_lost():
            channel.ledger.flush_if_full()
            if channel._in_poll or not channel.qos.can_consume():
                return False
            if channel.fill():
                return True
        self._register_BRPOP(channel)
        return False

    def on_readable(self, fileno: int) -> Any:
        """A socket has something, or messages wait in this process."""
        if self._bell is not None and fileno == self._bell.fd:
            for channel in list(self._channels):
                if channel.claiming:
                    channel.deliver()
            return None
        channel = self._fd_to_chan.get(fileno, (None, ""))[0]
        with refused_is_lost():
            if channel is not None and channel.expecting:
                return channel._brpop_read()
            return super().on_readable(fileno)

    def _pause_brpop(self, channel: Any, fileno: int) -> None:
        if not channel.expecting:
            super()._pause_brpop(channel, fileno)

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for one event outside of an event loop.

        Raises:
            Empty: nothing came.
        """
        self.on_poll_start()
        delivered = sum(channel.deliver(1) for channel in list(self._channels) if channel.claiming)
        if not delivered:
            super().get(callback, timeout)
        for channel in list(self._channels):
            if channel.claiming:
                channel.ledger.flush_if_due()
