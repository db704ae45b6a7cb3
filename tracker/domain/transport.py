"""How a stream's events are put on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from tracker.domain.event import Event
from tracker.domain.queue import Encoding


@dataclass(frozen=True, slots=True)
class Transport:
    """`name` is the metric's label, `encode` the wire form of an event."""

    name: str
    encode: Encoding

    def encode_without_id(self, event: Event) -> bytes:
        """The wire form for a stream that carries no ids."""
        return self.encode(event.without_id())


#: WebSocket frames of our own making, into an outbox that takes bytes.
WEBSOCKET = Transport("websocket", Event.frame)
#: WebSocket text messages, each ended by a line feed, for a server that frames them itself.
WEBSOCKET_LINES = Transport("websocket", Event.line)
#: SSE events in HTTP/1.1 chunks of our own making.
SSE_CHUNKED = Transport("sse", Event.chunk)
#: Bare SSE events: HTTP/1.0, or a server that does the framing.
SSE_BARE = Transport("sse", Event.sse)

#: Every name that a transport has.
TRANSPORT_NAMES = ("websocket", "sse")
