"""What a client is told: an event, in the forms that the transports need.

Law: an event is encoded once for each form, however many clients get it; every client
shares the same bytes. The forms are made on first use, so nobody pays for a transport
that nobody uses.
"""

from __future__ import annotations

from typing import final

import msgspec

from tracker.domain import wire


class Event:
    """A named event with one JSON value.

    `data`: the JSON value as bytes, UTF-8, without line breaks (SSE is line-based).

    The forms are final: a transport holds the function itself, so an override would never
    be called. What is special about an event's form is put there when it is made.
    """

    __slots__ = ("_chunk", "_frame", "_line", "_sse", "data", "name", "size_bytes")

    def __init__(self, name: bytes, data: bytes) -> None:
        self.name = name
        self.data = data
        self.size_bytes = len(data)
        self._line: bytes | None = None
        self._frame: bytes | None = None
        self._sse: bytes | None = None
        self._chunk: bytes | None = None

    @final
    def text(self) -> bytes:
        """The JSON text `{"event":…,"data":…}`: a WebSocket message, or the body of an error."""
        return wire.text_message(self.name, self.data)

    @final
    def frame(self) -> bytes:
        """The WebSocket frame that carries this event."""
        if self._frame is None:
            self._frame = wire.text_frame(self.text())
        return self._frame

    @final
    def line(self) -> bytes:
        """The WebSocket text message and a line feed, for servers that frame it themselves."""
        if self._line is None:
            self._line = self.text() + b"\n"
        return self._line

    @final
    def sse(self) -> bytes:
        """The SSE event, bare."""
        if self._sse is None:
            self._sse = wire.sse_event(self.name, self.data)
        return self._sse

    @final
    def chunk(self) -> bytes:
        """The SSE event inside an HTTP/1.1 chunk."""
        if self._chunk is None:
            self._chunk = wire.chunk(self.sse())
        return self._chunk


class _Heartbeat(Event):
    """Traffic for proxies that cut idle connections; no client's code sees it."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(b"", b"")
        self._frame = wire.PING_FRAME
        self._line = b""  # a server that frames for itself has no door for a Ping frame
        self._sse = wire.SSE_COMMENT


class _Reconnect(Event):
    """On SSE with the `retry:` line that `EventSource` obeys."""

    __slots__ = ()

    def __init__(self, after_ms: int, data: bytes) -> None:
        super().__init__(b"reconnect", data)
        self._sse = b"retry: %d\n%b" % (after_ms, wire.sse_event(self.name, data))


HEARTBEAT: Event = _Heartbeat()
PING: Event = Event(b"ping", b'{"type":"keep-alive"}')


def error(message: str) -> Event:
    """The `error` event, whose text message is also the body of every 4xx answer."""
    return Event(b"error", msgspec.json.encode({"message": message}))


def reconnect(after_ms: int, reason: str) -> Event:
    """Ask the client to come back after `after_ms` milliseconds."""
    return _Reconnect(after_ms, msgspec.json.encode({"after_ms": after_ms, "reason": reason}))
