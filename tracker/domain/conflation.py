"""The queues of clients that prefer new messages to old ones: drop-old, and latest.

Both keep the laws of `Queue`. Their entries are lists in the shape of its tuples, so that
what stands in a place can be replaced while the place, and with it the order, stays.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import cast

from tracker.domain.event import NOTHING, Event, Gap
from tracker.domain.message import Message
from tracker.domain.queue import Overflow, Queue, QueueLimits, Subscription
from tracker.domain.reasons import Drop
from tracker.domain.totals import Totals

_MutableEntry = list[Event | Subscription | None]

#: Below so many places that were given up, taking them out is not worth a pass.
_GIVEN_UP_LIMIT = 16


class DropOldQueue(Queue):
    """Without room, the oldest message of the device is dropped for the new one.

    The first place that is given up holds the gap, those behind it nothing.
    """

    __slots__ = ("_given_up", "_places")

    overflow = Overflow.DROP_OLD

    def __init__(self, limits: QueueLimits, totals: Totals) -> None:
        super().__init__(limits, totals)
        #: The entries of each device, the oldest first; some may have left already.
        self._places: dict[Subscription, deque[_MutableEntry]] = {}
        self._given_up = 0

    def put(self, message: Event, subscription: Subscription) -> None:
        """Append a message, with its id or without; the caller has seen to the bounds."""
        gap = subscription.gap
        super().put(message, subscription)
        subscription.gap = gap  # it stands before all that waits of the device
        entry: _MutableEntry = [message, subscription]
        self.entries[-1] = cast(tuple[Event, Subscription | None], entry)
        self._places_of(subscription).append(entry)

    def put_without_room(self, message: Message, subscription: Subscription) -> None:
        """Give up the oldest of the device until there is room for `message`."""
        places = self._places_of(subscription)
        while places and not self.has_room(message, subscription):
            self._give_up(places.popleft(), subscription)
        if self.has_room(message, subscription):
            self.put(message, subscription)
        else:  # what fills the bytes belongs to others
            super().put_without_room(message, subscription)
        if self._given_up > max(_GIVEN_UP_LIMIT, len(self.entries) // 2):
            self.entries = deque(entry for entry in self.entries if entry[0] is not NOTHING)
            self._given_up = 0

    def _places_of(self, subscription: Subscription) -> deque[_MutableEntry]:
        places = self._places.get(subscription)
        if places is None:
            places = self._places[subscription] = deque()
        while len(places) > subscription.queued:
            places.popleft()  # it has left
        return places

    def _give_up(self, entry: _MutableEntry, subscription: Subscription) -> None:
        message = cast(Event, entry[0])
        subscription.queued -= 1
        self.waiting -= 1
        self.waiting_bytes -= message.size_bytes
        self._count_drop(subscription)
        gap = subscription.gap
        if gap is None or gap.is_sealed:
            gap = subscription.gap = Gap(subscription.device_id, Drop.BUFFER_FULL.value)
            self.waiting_bytes += gap.size_bytes
            entry[:] = [gap, None]
        else:
            entry[:] = [NOTHING, None]
            self._given_up += 1
        gap.dropped += 1

    def _keep_growing(self, gap: Gap, subscription: Subscription) -> None:
        # A gap for what is given up must stand before all that waits.
        if not subscription.queued:
            super()._keep_growing(gap, subscription)

    def strip_ids(self) -> None:
        """Let the messages that wait leave without ids, and drop the positions that wait."""
        self._drop_positions()
        for places in self._places.values():
            for entry in places:
                entry[0] = cast(Event, entry[0]).without_id()

    def remove(self, subscriptions: Collection[Subscription]) -> int:
        """Drop what waits of `subscriptions`, with their gaps; return how many messages."""
        for subscription in subscriptions:
            self._places.pop(subscription, None)
        return super().remove(subscriptions)

    def clear(self) -> int:
        """Drop what waits; return how many messages that were."""
        self._places.clear()
        self._given_up = 0
        return super().clear()


class LatestQueue(Queue):
    """Of each device only the newest message waits: memory in proportion to the devices.

    A newer one takes the place of the one that waits, so a device that reports often does
    not push itself back.
    """

    __slots__ = ("_newest",)

    overflow = Overflow.LATEST

    def __init__(self, limits: QueueLimits, totals: Totals) -> None:
        super().__init__(limits, totals)
        self._newest: dict[Subscription, _MutableEntry] = {}

    def has_room(self, message: Message, subscription: Subscription) -> bool:
        """Whether `message` can wait: in the place of an older one, always."""
        return subscription.queued > 0 or self.has_room_for_bytes(message)

    def put(self, message: Event, subscription: Subscription) -> None:
        """Let `message` wait, instead of an older one if there is one."""
        if subscription.queued:
            entry = self._newest[subscription]
            self.waiting_bytes += message.size_bytes - cast(Event, entry[0]).size_bytes
            entry[0] = message
            subscription.dropped += 1
            self.conflated += 1
            self.totals.dropped[Drop.CONFLATED] += 1
            return
        super().put(message, subscription)
        entry = [message, subscription]
        self.entries[-1] = cast(tuple[Event, Subscription | None], entry)
        self._newest[subscription] = entry

    def remove(self, subscriptions: Collection[Subscription]) -> int:
        """Drop what waits of `subscriptions`, with their gaps; return how many messages."""
        for subscription in subscriptions:
            self._newest.pop(subscription, None)
        return super().remove(subscriptions)

    def clear(self) -> int:
        """Drop what waits; return how many messages that were."""
        self._newest.clear()
        return super().clear()
