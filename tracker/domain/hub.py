"""Who watches what: the fan-out from one message to every stream of its device.

Laws: `publish_batch` is synchronous and only offers, so between two checkpoints nobody
sees half a publish, and that is the proof of order. A stream leaves synchronously, and
its subscriptions are gone with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tracker.domain.message import Message
from tracker.domain.notices import DropNotices
from tracker.domain.outbox import Outbox
from tracker.domain.queue import Drop, QueueLimits, Subscription
from tracker.domain.stream import TRANSPORT_NAMES, CloseReason, Stream, Transport


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """The hub's counters, exact at one moment.

    `published`: messages decoded and published, neither malformed nor retained;
    `streams`: open connections by transport; `delivered`, `dropped`, `waiting`: messages,
    summed over all streams that ever were; `events_left_out`: events that belong to no
    device and found too many of their kind waiting; `devices_forgotten`: devices whose last
    message made room for others'.
    """

    published: int
    subscriptions: int
    devices_watched: int
    devices_known: int
    devices_forgotten: int
    streams: dict[str, int]
    opened: dict[str, int]
    closed: dict[CloseReason, int]
    offered: int
    delivered: int
    dropped: dict[Drop, int]
    waiting: int
    events_left_out: int


#: How large the last messages of all devices may be together, in bytes of JSON: 64 KiB for
#: each of 100,000 devices would be 6 GiB.
LAST_LIMIT_BYTES = 128 * 1024 * 1024


class Hub:
    """The fan-out, and the last known message of each device.

    `devices_limit`, `last_limit_bytes`: of how many devices the last message is kept, and
    how many bytes of JSON they are; the longest silent are forgotten first.
    """

    def __init__(
        self,
        limits: QueueLimits,
        *,
        devices_limit: int,
        last_limit_bytes: int = LAST_LIMIT_BYTES,
    ) -> None:
        self.notices = DropNotices()
        self._limits = limits
        self._devices_limit = devices_limit
        self._last_limit_bytes = last_limit_bytes
        self._watchers: dict[str, dict[Stream, Subscription]] = {}
        #: A stream keeps its seat for life, so that periodic work can be spread over seats.
        self._seats: list[Stream | None] = []
        self._free_seats: list[int] = []
        self._last: dict[str, Message] = {}
        self._last_bytes = 0
        self._devices_forgotten = 0
        #: Messages that left the queues for the sockets.
        self.delivered = 0
        self._published = 0
        self._publishes = 0
        self._offered = 0
        self._dropped = dict.fromkeys(Drop, 0)
        self._events_left_out = 0
        self._subscriptions = 0
        # With their zeros: a counter that appears with its first event has no rate.
        self._streams = dict.fromkeys(TRANSPORT_NAMES, 0)
        self._opened = dict.fromkeys(TRANSPORT_NAMES, 0)
        self._closed = dict.fromkeys(CloseReason, 0)

    def open_stream(
        self, device_ids: Iterable[str], outbox: Outbox, transport: Transport
    ) -> Stream:
        """A stream of the messages of `device_ids`, live from now until it leaves.

        Use it as a context manager, or call its `leave`.
        """
        stream = Stream(dict.fromkeys(device_ids), outbox, transport, self._limits, self)
        self._take_seat(stream)
        for device_id, subscription in stream.subscriptions.items():
            self._watchers.setdefault(device_id, {})[stream] = subscription
        self._subscriptions += len(stream.subscriptions)
        self._opened[transport.name] += 1
        self._streams[transport.name] += 1
        return stream

    def _take_seat(self, stream: Stream) -> None:
        if self._free_seats:
            stream.seat = self._free_seats.pop()
            self._seats[stream.seat] = stream
        else:
            stream.seat = len(self._seats)
            self._seats.append(stream)

    def note_drop(self, device_id: str) -> None:
        """A stream dropped a message of this device."""
        self._dropped[Drop.BUFFER_FULL] += 1
        self.notices.count(device_id)

    def note_event_left_out(self) -> None:
        """A stream left out an event of no device."""
        self._events_left_out += 1

    def note_leave(self, stream: Stream, messages: int) -> None:
        """Forget a stream that leaves, and with it `messages` that waited."""
        self._seats[stream.seat] = None
        self._free_seats.append(stream.seat)
        for device_id in stream.subscriptions:
            watchers = self._watchers[device_id]
            del watchers[stream]
            if not watchers:
                del self._watchers[device_id]
        self._subscriptions -= len(stream.subscriptions)
        self._streams[stream.transport.name] -= 1
        self._dropped[Drop.CLOSED] += messages
        self._closed[stream.close_reason or CloseReason.CLIENT] += 1

    def publish_batch(self, messages: Iterable[Message]) -> list[Stream]:
        """Offer each message to every stream of its device. Never waits, never raises.

        Returns the streams that were offered something: flush them. Hot path: S2b, S6b.
        """
        self._publishes += 1
        publish = self._publishes
        touched: list[Stream] = []
        for message in messages:
            self._published += 1
            self._remember(message)
            watchers = self._watchers.get(message.device_id)
            if watchers is None:
                continue
            self._offered += len(watchers)
            for stream, subscription in watchers.items():
                stream.offer(message, subscription)
                if stream.touched_by != publish:
                    stream.touched_by = publish
                    touched.append(stream)
        return touched

    def seed(self, message: Message) -> None:
        """Take a retained message as the last known one of its device, if none is known.

        It is old news: no stream gets it, it is not counted as published, and it makes no
        other device forgotten.
        """
        if (
            message.device_id not in self._last
            and len(self._last) < self._devices_limit
            and self._last_bytes + message.size_bytes <= self._last_limit_bytes
        ):
            self._remember(message)

    def _remember(self, message: Message) -> None:
        last = self._last
        # Out and in again, so that the order is that of the last sign of life.
        known = last.pop(message.device_id, None)
        if known is not None:
            self._last_bytes -= known.size_bytes
        last[message.device_id] = message
        self._last_bytes += message.size_bytes
        while len(last) > self._devices_limit or self._last_bytes > self._last_limit_bytes:
            self._last_bytes -= last.pop(next(iter(last))).size_bytes
            self._devices_forgotten += 1

    def last_messages(self) -> list[Message]:
        """The last known message of each device, the longest silent first."""
        return list(self._last.values())

    def streams(self, share: int = 0, shares: int = 1) -> list[Stream]:
        """One of `shares` equal shares of the open streams; by default all of them.

        A stream is in the same share for life.
        """
        return [stream for stream in self._seats[share::shares] if stream is not None]

    def statistics(self) -> HubStatistics:
        """All counters, at this moment. Takes the same time however many streams there are."""
        return HubStatistics(
            published=self._published,
            subscriptions=self._subscriptions,
            devices_watched=len(self._watchers),
            devices_known=len(self._last),
            devices_forgotten=self._devices_forgotten,
            streams=dict(self._streams),
            opened=dict(self._opened),
            closed=dict(self._closed),
            offered=self._offered,
            delivered=self.delivered,
            dropped=dict(self._dropped),
            waiting=self._offered - self.delivered - sum(self._dropped.values()),
            events_left_out=self._events_left_out,
        )
