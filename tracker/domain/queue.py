"""What waits for one connection: one FIFO in publish order, bounded, with exact counters.

Laws:
- One order: what leaves is what was accepted, in the order in which it was offered.
- Conservation: `offered == delivered + dropped + waiting` for each subscription at every
  moment; *delivered* means that it left the queue for the socket.
- Bounds: at most `limit_messages` of one device wait, and `limit_bytes` in all.

A deque of our own, not a memory channel: the bounds are per device inside one order, and
an event without a subscription (a ping) stands in the same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tracker.domain.event import Event
from tracker.domain.message import Message

#: Picks one of an event's wire forms, e.g. `Event.frame`.
Encoding = Callable[[Event], bytes]


class Drop(Enum):
    """Why a message did not reach a connection. The value is the metric's label."""

    BUFFER_FULL = "buffer_full"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait for one connection.

    `messages`: messages of one device; `total_bytes`: bytes in all, counted as the size of
    the JSON values (the bytes themselves are shared by all connections), or one message
    that is larger; `events`: events that belong to no device, the newest is left out.
    """

    messages: int = 100
    total_bytes: int = 1024 * 1024
    events: int = 16


class Subscription:
    """One (connection, device id) pair: its share of the connection's queue."""

    __slots__ = ("delivered", "device_id", "dropped", "offered", "waiting")

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self.offered = 0
        self.delivered = 0
        self.dropped = 0
        self.waiting = 0


class Queue:
    """The events that wait for one connection.

    Hot path: `offer` and `take` run for every delivery; the bench's S2b guards them.
    """

    __slots__ = (
        "_entries",
        "_events_waiting",
        "_limits",
        "delivered",
        "dropped",
        "waiting_bytes",
    )

    def __init__(self, limits: QueueLimits) -> None:
        self._entries: deque[tuple[Event, Subscription | None]] = deque()
        self._limits = limits
        self._events_waiting = 0
        self.waiting_bytes = 0
        self.delivered = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return len(self._entries) - self._events_waiting

    def has_room(self, message: Message, subscription: Subscription) -> bool:
        """Whether `message` fits into both bounds."""
        return subscription.waiting < self._limits.messages and self.has_room_for_bytes(message)

    def has_room_for_bytes(self, message: Message) -> bool:
        """Whether `message` fits into the bound in bytes, or is the only one.

        A message above the bound would else be lost on a client that takes everything.
        """
        return (
            self.waiting_bytes + message.size_bytes <= self._limits.total_bytes or not self._entries
        )

    def put(self, message: Message, subscription: Subscription) -> None:
        """Append a message; the caller has seen to the bounds."""
        subscription.waiting += 1
        self.waiting_bytes += message.size_bytes
        self._entries.append((message, subscription))

    def put_event(self, event: Event) -> bool:
        """Append an event that belongs to no subscription; False when too many of them wait."""
        if self._events_waiting >= self._limits.events:
            return False
        self._events_waiting += 1
        self.waiting_bytes += event.size_bytes
        self._entries.append((event, None))
        return True

    def drop(self, subscription: Subscription) -> None:
        """Count a message that was offered and not accepted."""
        subscription.dropped += 1
        self.dropped += 1

    def take(self, encode: Encoding, limit_bytes: int) -> bytes:
        """Take from the front what fits into `limit_bytes` on the wire, at least one event.

        The queue must not be empty. One event alone is passed on as the bytes that all
        connections share.
        """
        entries = self._entries
        parts: list[bytes] = []
        taken_bytes = 0
        while entries:
            event, subscription = entries[0]
            part = encode(event)
            taken_bytes += len(part)
            if taken_bytes > limit_bytes and parts:
                break
            entries.popleft()
            if subscription is None:
                self._events_waiting -= 1
            else:
                subscription.waiting -= 1
                subscription.delivered += 1
                self.delivered += 1
            self.waiting_bytes -= event.size_bytes
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def clear(self) -> int:
        """Drop what waits; return how many messages that were."""
        messages = 0
        for _, subscription in self._entries:
            if subscription is not None:
                subscription.waiting -= 1
                subscription.dropped += 1
                messages += 1
        self._entries.clear()
        self._events_waiting = 0
        self.waiting_bytes = 0
        self.dropped += messages
        return messages
