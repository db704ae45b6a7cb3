"""One client's stream: its subscriptions, its queue, and the outbox that the queue fills.

Theory of operation: the hub offers messages; the ingest task then flushes the streams it
touched. A flush moves what waits into the outbox, as far as the outbox takes it: in the
common case one message, one system call, no task switch. What the kernel refuses stays
the outbox's tail, and while there is one nothing leaves the queue; when the tail is gone
the outbox calls back, and the flush goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from tracker.domain.event import HEARTBEAT, Event
from tracker.domain.message import Message
from tracker.domain.outbox import Outbox
from tracker.domain.queue import Encoding, Queue, QueueLimits, Subscription

#: One write carries at most this much: what a slow client's kernel refused of it is all
#: that is held beside the queue.
WRITE_LIMIT_BYTES = 64 * 1024


class CloseReason(Enum):
    """Why a stream ended. The value is the metric's label."""

    CLIENT = "client"  # the client closed, or its connection broke
    STALLED = "stalled"  # the kernel took not a byte of it for `stall_s`
    SHUTDOWN = "shutdown"
    FLOOD = "flood"  # it sent more than a client may
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Transport:
    """How a stream's events are put on the wire.

    `name` is the metric's label, `encode` the wire form of an event.
    """

    name: str
    encode: Encoding


#: WebSocket frames of our own making, into an outbox that takes bytes.
WEBSOCKET = Transport("websocket", Event.frame)
#: WebSocket text messages, each ended by a line feed, for a server that frames them itself.
WEBSOCKET_LINES = Transport("websocket", Event.line)
#: SSE events in HTTP/1.1 chunks of our own making.
SSE_CHUNKED = Transport("sse", Event.chunk)
#: Bare SSE events: HTTP/1.0, or a server that does the framing.
SSE_BARE = Transport("sse", Event.sse)

TRANSPORT_NAMES = ("websocket", "sse")


class Keeper(Protocol):
    """Who opened a stream, and keeps the books of all of them: no sum over many streams."""

    #: Messages that left the queues for the sockets.
    delivered: int

    def note_drop(self, device_id: str) -> None:
        """A message of this device was dropped: its buffer is full."""

    def note_event_left_out(self) -> None:
        """An event of no device found too many waiting."""

    def note_leave(self, stream: Stream, messages: int) -> None:
        """A stream leaves, and with it `messages` that waited."""


class Stream:
    """One client's stream. Open it with `hub.open_stream`.

    All methods are synchronous and none raises.
    """

    __slots__ = (
        "_encode",
        "_keeper",
        "close_reason",
        "has_ended",
        "on_close",
        "outbox",
        "queue",
        "seat",
        "subscriptions",
        "touched_by",
        "transport",
    )

    def __init__(
        self,
        device_ids: Iterable[str],
        outbox: Outbox,
        transport: Transport,
        limits: QueueLimits,
        keeper: Keeper,
    ) -> None:
        self.queue = Queue(limits)
        self.subscriptions: Mapping[str, Subscription] = {
            device_id: Subscription(device_id) for device_id in device_ids
        }
        self.outbox = outbox
        self.transport = transport
        #: Called once, when the gateway wants the stream to end.
        self.on_close: Callable[[], object] | None = None
        self.close_reason: CloseReason | None = None
        #: The last publish, by its number, that offered it something.
        self.touched_by = 0
        #: Its place among the hub's streams.
        self.seat = -1
        #: Whether the stream has left the hub: nothing of it may reach the outbox.
        self.has_ended = False
        self._encode = transport.encode
        self._keeper = keeper
        outbox.on_writable = self.flush
        outbox.on_stalled = self._stall

    def offer(self, message: Message, subscription: Subscription) -> None:
        """Queue a message, or drop it and count it. Law: see `Queue`, PROTOCOL A4."""
        subscription.offered += 1
        queue = self.queue
        if not queue.has_room(message, subscription) and not self._make_room(message, subscription):
            queue.drop(subscription)
            self._keeper.note_drop(subscription.device_id)
            return
        queue.put(message, subscription)

    def _make_room(self, message: Message, subscription: Subscription) -> bool:
        # A message may be dropped only after the kernel has refused bytes.
        self.flush()
        if self.queue.has_room(message, subscription):
            return True
        # An outbox that another task serves has not been refused yet: the bytes bound it.
        return not self.outbox.refusing and self.queue.has_room_for_bytes(message)

    def post(self, event: Event) -> None:
        """Queue an event that belongs to no device, and send it if the kernel takes it.

        Once the stream has ended, nothing happens: its connection may serve another answer.
        """
        if self.has_ended:
            return
        if not self.queue.put_event(event):
            self._keeper.note_event_left_out()
        self.flush()

    def heartbeat(self) -> None:
        """Put traffic on the wire, unless something waits already: then bytes flow anyway."""
        if self.outbox.writable and not self.queue and self._encode(HEARTBEAT):
            self.post(HEARTBEAT)

    def flush(self) -> int:
        """Move what waits into the outbox, as far as it takes it; return messages moved."""
        queue, outbox = self.queue, self.outbox
        before = queue.delivered
        while queue and outbox.writable:
            outbox.write_nowait(queue.take(self._encode, WRITE_LIMIT_BYTES))
        moved = queue.delivered - before
        self._keeper.delivered += moved
        return moved

    @property
    def is_unserved(self) -> bool:
        """Whether what waits has been refused by nobody: its task has not had its turn yet."""
        outbox = self.outbox
        return bool(self.queue) and not outbox.writable and not outbox.refusing

    def _stall(self) -> None:
        self.close(CloseReason.STALLED)

    def leave(self) -> None:
        """Leave the hub and let go of the outbox; what waits is dropped. Idempotent."""
        if not self.has_ended:
            self.has_ended = True
            self.outbox.on_writable = self.outbox.on_stalled = None
            self._keeper.note_leave(self, self.queue.clear())

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.leave()

    def close(self, reason: CloseReason) -> None:
        """Ask for the end of the stream; the first reason stands."""
        if self.close_reason is None:
            self.close_reason = reason
            if self.on_close is not None:
                self.on_close()
