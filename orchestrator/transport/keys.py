"""Names in the broker. Lists are kombu's own, so that stock peers and Flower understand them."""

from __future__ import annotations

from dataclasses import dataclass

#: How kombu writes a priority behind a queue's name.
SEPARATOR = "\x06\x16"
#: Stands before the priority in the name of a list of released messages.
RELEASED = "+"
#: Kombu's buckets of priorities, first read first: higher numbers first, as on RabbitMQ. 0, the default, is the
#: bare name. A number belongs to the highest step that is not above it.
STEPS = (9, 6, 3, 0)
#: How a message begins that came back from a dead owner: kept in the message itself, because a stock worker may
#: be the next to take it. Four digits of charged deliveries and ``", `` follow. 1 is the format's version.
MARK = b'{"orchestrator-delivery": "1:'
#: The member that :data:`MARK` adds to a message.
DELIVERY_MEMBER = "orchestrator-delivery"
#: Milliseconds that a wake marker lives; an idle consumer looks for messages every second anyway.
MARKER_MS = 10_000


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one broker.

    Args:
        lists: what stands before every list (kombu's ``global_keyprefix``).
        ours: what stands before every key of ours; may serve as hash tag.
    """

    lists: str
    ours: str

    def ready(self, queue: str, step: int) -> str:
        """LIST of waiting messages of one queue and priority step."""
        return f"{self.lists}{queue}{SEPARATOR}{step}" if step else f"{self.lists}{queue}"

    def released(self, queue: str, step: int) -> str:
        """LIST of messages that waited for a limit and may start: they come before those that are ready."""
        return f"{self.lists}{queue}{SEPARATOR}{RELEASED}{step}"

    def wake(self, queue: str) -> str:
        """LIST of at most one marker that wakes an idle consumer of a queue."""
        return f"{self.wake_prefix}{self.lists}{queue}"

    @property
    def wake_prefix(self) -> str:
        """Stands before the bare list's name in :meth:`wake`."""
        return f"{self.ours}wake:"

    def inflight(self, owner: str) -> str:
        """HASH serial -> record of what an owner holds."""
        return f"{self.inflight_prefix}{owner}"

    @property
    def inflight_prefix(self) -> str:
        """Stands before the owner's name in :meth:`inflight`."""
        return f"{self.ours}inflight:"

    @property
    def owners(self) -> str:
        """ZSET owner -> ms at which its lease runs out, by the broker's clock."""
        return f"{self.ours}owners"

    @property
    def sweeps(self) -> str:
        """HASH about the last look for leases that ran out, and the one that the broker began its life with."""
        return f"{self.ours}sweeps"

    @property
    def setback(self) -> str:
        """HASH about the last time at which the broker came back without what it had been told last."""
        return f"{self.ours}setback"

    @property
    def paused(self) -> str:
        """SET of queues from which nothing is claimed."""
        return f"{self.ours}paused"

    @property
    def fair(self) -> str:
        """SET of queues that are shared fairly among tenants."""
        return f"{self.ours}fair"

    @property
    def aside(self) -> str:
        """LIST of messages that cannot be delivered, on their way to the inbox."""
        return f"{self.ours}aside"

    def sender(self, name: str) -> str:
        """STRING number of the last call of a publishing connection that was carried out."""
        return f"{self.ours}sender:{name}"

    def published(self, successor: str) -> str:
        """STRING that a successor (a retry, a deferral, what follows a task) was published."""
        return f"{self.ours}published:{successor}"

    @property
    def delayed(self) -> str:
        """ZSET name -> ms at which a delayed message is due."""
        return f"{self.ours}delayed"

    @property
    def delayed_messages(self) -> str:
        """HASH name -> record of a delayed message."""
        return f"{self.ours}delayed:messages"

    def queue_of(self, ready: str) -> str:
        """Return the queue that a list belongs to."""
        return ready.removeprefix(self.lists).split(SEPARATOR, 1)[0]
