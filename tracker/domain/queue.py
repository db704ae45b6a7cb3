"""What waits for one connection: one FIFO in publish order, bounded, with exact counters.

Laws:
- One order: what leaves is what was accepted, in the order in which it was offered.
- Conservation: `offered == delivered + dropped + waiting` for each subscription at every
  moment; *delivered* means that it left for the socket. A subscription counts the last two:
  what was offered is what was published, and deliveries are counted for the stream.
- Bounds: at most `messages` of one device wait, and `total_bytes` in all.
- A gap stands where the first dropped message would have stood, and grows until a later
  message of that device is queued behind it. So no higher id passes it.

A deque of our own, not a memory channel: the bounds are per device inside one order, and
what belongs to no device (a ping, a gap) stands in the same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from tracker.domain.event import NOTHING, PING, Event, Gap, Place
from tracker.domain.message import Message
from tracker.domain.reasons import Drop
from tracker.domain.totals import Totals

#: What belongs to no device and is no ping is rare, and says what the client could not
#: find out later; so many of them wait only where a broker comes and goes for hours.
_NEWS_LIMIT = 128

#: Picks one of an event's wire forms, e.g. `Event.frame`.
Encoding = Callable[[Event], bytes]


class Overflow(Enum):
    """What happens to a message for which there is no room. The value is the parameter's."""

    DROP_NEW = "drop_new"
    DROP_OLD = "drop_old"
    LATEST = "latest"
    DISCONNECT = "disconnect"


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How much may wait for one connection.

    `messages`: messages of one device; `total_bytes`: bytes in all, counted as the size of
    the JSON values (the bytes themselves are shared by all connections); `events`: how many
    events that belong to no device may wait for a ping to be one more.
    """

    messages: int = 100
    total_bytes: int = 1024 * 1024
    events: int = 16


class Subscription:
    """One (connection, device id) pair: its share of the connection's queue."""

    __slots__ = (
        "deferred",
        "device_id",
        "dropped",
        "gap",
        "held",
        "queued",
        "start_sequence",
    )

    def __init__(self, device_id: str, start_sequence: int = 0) -> None:
        self.device_id = device_id
        #: Of the last message that was published before it was there.
        self.start_sequence = start_sequence
        self.dropped = 0
        #: Messages that wait in the queue.
        self.queued = 0
        #: Messages that wait in the history, for a stream that catches up.
        self.deferred = 0
        #: Messages that wait for their token, for a stream with a rate limit.
        self.held = 0
        #: The last gap of this device; it grows while nothing of it is queued behind.
        self.gap: Gap | None = None

    @property
    def waiting(self) -> int:
        """Messages that were offered, and neither delivered nor dropped."""
        return self.queued + self.deferred + self.held


_Entry = tuple[Event, Subscription | None]


class Queue:
    """The events that wait for one connection. Without room, the new message is dropped.

    `totals`: the sums that it adds to.
    """

    __slots__ = (
        "_limits",
        "conflated",
        "delivered",
        "dropped",
        "entries",
        "events_left_out",
        "events_waiting",
        "totals",
        "waiting",
        "waiting_bytes",
    )

    #: The policy, as clients and operators name it.
    overflow = Overflow.DROP_NEW

    def __init__(self, limits: QueueLimits, totals: Totals) -> None:
        #: What waits, in order. Others may look whether it is empty, which costs next to nothing.
        self.entries: deque[_Entry] = deque()
        self._limits = limits
        #: The sums over all queues.
        self.totals = totals
        self.events_waiting = 0
        self.waiting = 0
        self.waiting_bytes = 0
        self.delivered = 0
        #: Without those that were conflated.
        self.dropped = 0
        self.conflated = 0
        self.events_left_out = 0

    def __len__(self) -> int:
        return len(self.entries)

    def has_room(self, message: Message, subscription: Subscription) -> bool:
        """Whether `message` fits into both bounds."""
        return subscription.queued < self._limits.messages and self.has_room_for_bytes(message)

    def has_room_for_bytes(self, message: Message) -> bool:
        """Whether `message` fits into the bound in bytes, or is the only one.

        A message above the bound would else be lost on a client that takes everything.
        """
        return (
            self.waiting_bytes + message.size_bytes <= self._limits.total_bytes or not self.entries
        )

    def put(self, message: Event, subscription: Subscription) -> None:
        """Append a message, with its id or without; the caller has seen to the bounds."""
        subscription.queued += 1
        subscription.gap = None
        self.waiting += 1
        self.waiting_bytes += message.size_bytes
        self.entries.append((message, subscription))

    def put_event(self, event: Event) -> None:
        """Append an event that belongs to no subscription, unless too many of them wait."""
        limit = self._limits.events if event is PING else _NEWS_LIMIT
        if self.events_waiting >= limit:
            self.events_left_out += 1
            self.totals.events_left_out += 1
        else:
            self.put_answer(event)

    def put_answer(self, event: Event) -> None:
        """Append an event that belongs to no subscription; its number is bounded elsewhere."""
        self.events_waiting += 1
        self.waiting_bytes += event.size_bytes
        self.entries.append((event, None))

    def put_first(self, event: Event) -> None:
        """Let an event leave before all else; there is one such at a time."""
        self.put_answer(event)
        self.entries.rotate(1)

    def put_loss(self, messages: int, reason: str) -> None:
        """Say here that `messages` were lost of which nobody knows the device.

        One gap at the end grows, so they are no more than what else waits.
        """
        last = self.entries[-1][0] if self.entries else None
        if not isinstance(last, Gap) or last.device_id is not None or last.reason != reason:
            last = Gap(None, reason)
            self.put_gap(last)
        last.dropped += messages

    def put_gap(self, gap: Gap) -> None:
        """Append a gap; its count says for how many messages it stands."""
        self.waiting_bytes += gap.size_bytes
        self.entries.append((gap, None))

    def put_without_room(self, message: Message, subscription: Subscription) -> None:
        """Deal with a message that was offered and for which there is no room."""
        self._count_drop(subscription)
        gap = subscription.gap
        if gap is None or gap.is_sealed:
            gap = subscription.gap = Gap(subscription.device_id, Drop.BUFFER_FULL.value)
            self.put_gap(gap)
        gap.dropped += 1

    def _count_drop(self, subscription: Subscription) -> None:
        subscription.dropped += 1
        self.dropped += 1
        self.totals.dropped[Drop.BUFFER_FULL] += 1

    def take(self, encode: Encoding, limit_bytes: int) -> bytes:
        """Take from the front what fits into `limit_bytes` on the wire, at least one event.

        The queue must not be empty. One event alone is passed on as the bytes that all
        connections share; an event that has no form in this encoding leaves no bytes.
        """
        entries = self.entries
        parts: list[bytes] = []
        taken_bytes = messages = 0
        while entries:
            event, subscription = entries[0]
            if subscription is None and isinstance(event, Gap):
                event.seal()
            part = encode(event)
            taken_bytes += len(part)
            if taken_bytes > limit_bytes and parts:
                if isinstance(event, Gap):
                    event.unseal()
                break
            entries.popleft()
            if subscription is not None:
                subscription.queued -= 1
                messages += 1
            elif not isinstance(event, Place):
                self.events_waiting -= 1
            self.waiting_bytes -= event.size_bytes
            parts.append(part)
        self.waiting -= messages
        self.count_delivered(messages)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def count_delivered(self, messages: int) -> None:
        """Count messages that left for the socket."""
        self.delivered += messages
        self.totals.delivered += messages

    def remove(self, subscriptions: Collection[Subscription]) -> int:
        """Drop what waits of `subscriptions`, with their gaps; return how many messages."""
        owners = {subscription.device_id: subscription for subscription in subscriptions}
        kept = deque[_Entry]()
        messages = 0
        for entry in self.entries:
            event, subscription = entry
            if subscription is None:
                is_theirs = isinstance(event, Gap) and event.device_id in owners
            else:
                is_theirs = owners.get(subscription.device_id) is subscription
            if not is_theirs:
                kept.append(entry)
                continue
            self.waiting_bytes -= event.size_bytes
            if subscription is not None:
                messages += 1
                self._count_closed(subscription)
        self.entries = kept
        for subscription in subscriptions:
            subscription.gap = None
        return messages

    def take_over(self, other: Queue) -> None:
        """Take all that waits in `other`, and its counters; `other` is done."""
        self.delivered, self.dropped = other.delivered, other.dropped
        self.conflated, self.events_left_out = other.conflated, other.events_left_out
        growing: dict[Event, Subscription] = {}
        for _, subscription in other.entries:
            if subscription is not None:
                subscription.queued = 0
                if subscription.gap is not None:
                    growing[subscription.gap] = subscription
                    subscription.gap = None
        for event, subscription in other.entries:
            if subscription is not None:
                self.put(event, subscription)
                continue
            self.entries.append((event, None))
            self.waiting_bytes += event.size_bytes
            self.events_waiting += not isinstance(event, Place)
            if isinstance(event, Gap) and event in growing:
                self._keep_growing(event, growing[event])

    def _keep_growing(self, gap: Gap, subscription: Subscription) -> None:
        """Let `gap`, which is at the end now, grow; until a message is put behind it."""
        subscription.gap = gap

    def strip_ids(self) -> None:
        """Let the messages that wait leave without ids, and drop the positions that wait."""
        self._drop_positions()
        self.entries = deque(
            (event if subscription is None else event.without_id(), subscription)
            for event, subscription in self.entries
        )

    def _drop_positions(self) -> None:
        # From one of them a client would resume as if it had nothing of what is without ids.
        kept = deque(
            entry
            for entry in self.entries
            if entry[0] is NOTHING or entry[0].without_id() is not NOTHING
        )
        self.events_waiting -= len(self.entries) - len(kept)
        self.entries = kept

    def oldest_ns(self) -> int | None:
        """When the oldest message that waits was received, or None: none waits."""
        for event, _ in self.entries:
            if isinstance(event, Message):
                return event.received_ns
        return None

    def clear(self) -> int:
        """Drop what waits; return how many messages that were."""
        messages = self.waiting
        for event, subscription in self.entries:
            if subscription is not None:
                self._count_closed(subscription)
            elif isinstance(event, Gap):
                event.seal()  # nobody will hear of it, but it must not grow either
        self.entries.clear()
        self.events_waiting = self.waiting_bytes = 0
        return messages

    def _count_closed(self, subscription: Subscription) -> None:
        subscription.queued -= 1
        subscription.dropped += 1
        self.waiting -= 1
        self.dropped += 1
        self.totals.dropped[Drop.CLOSED] += 1
