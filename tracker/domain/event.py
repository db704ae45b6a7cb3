"""What a client is told: an event, in the forms that the transports need.

Law: an event is encoded once for each form, however many clients get it; every client
shares the same bytes. The forms are made on first use, so nobody pays for a transport
that nobody uses.
"""

from __future__ import annotations

from typing import final

import msgspec
from msgspec import UNSET

from tracker.domain import event_data, wire
from tracker.domain.position import Position

#: What a gap that still grows counts for in a queue's bytes.
_GAP_BYTES = 100

_encode = msgspec.json.encode


class Event:
    """A named event with one JSON value.

    `data`: the JSON value as bytes, UTF-8, without line breaks (SSE is line-based).
    `id`: where the stream stands with it, or empty: see `Position`.

    The forms are final: a transport holds the function itself, so an override would never
    be called. What is special about an event's form is put there when it is made.
    """

    __slots__ = ("_chunk", "_frame", "_line", "_sse", "data", "id", "name", "size_bytes")

    def __init__(self, name: bytes, data: bytes, event_id: bytes = b"") -> None:
        self.name = name
        self.data = data
        self.id = event_id
        self.size_bytes = len(data)
        self._line: bytes | None = None
        self._frame: bytes | None = None
        self._sse: bytes | None = None
        self._chunk: bytes | None = None

    @final
    def text(self) -> bytes:
        """The JSON text `{"event":…,"data":…}`: a WebSocket message, or an error's body."""
        return wire.text_message(self.name, self.data, self.id)

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
            self._sse = wire.sse_event(self.name, self.data, self.id)
        return self._sse

    @final
    def chunk(self) -> bytes:
        """The SSE event inside an HTTP/1.1 chunk."""
        if self._chunk is None:
            self._chunk = wire.chunk(self.sse())
        return self._chunk

    def without_id(self) -> Event:
        """The same event for a stream that carries no ids."""
        return self


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


class _PositionMark(Event):
    """On SSE only: WebSocket has `position` in `hello`, `resume` and `ack`."""

    __slots__ = ()

    def __init__(self, event_id: bytes) -> None:
        super().__init__(b"", b"")
        self._frame = self._line = b""
        self._sse = wire.sse_position(event_id)

    def without_id(self) -> Event:
        """A stream that carries no ids has no position."""
        return NOTHING


class _Forget(Event):
    """On SSE only: the id that the browser stores names no position from now on.

    With what it had, a stream that has lost its ids would resume as if nothing had come
    since; with none at all it would not say that it resumes.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(b"", b"")
        self._frame = self._line = b""
        self._sse = wire.sse_position(b"none")


class Place(Event):
    """What stands in a queue where a message would have stood: a gap, or nothing."""

    __slots__ = ()


class Gap(Place):
    """What was lost of one device, or of any (None), here in the stream.

    It grows until it leaves, which is when it is sealed.
    """

    __slots__ = ("device_id", "dropped", "is_sealed", "reason")

    def __init__(self, device_id: str | None, reason: str, dropped: int = 0) -> None:
        super().__init__(b"gap", b"")
        self.size_bytes = _GAP_BYTES
        self.device_id = device_id
        self.dropped = dropped
        self.reason = reason
        self.is_sealed = False

    def seal(self) -> None:
        """Fix the count: the event leaves now."""
        self.is_sealed = True
        self.data = _encode(event_data.Gap(self.device_id, self.dropped, self.reason))

    def unseal(self) -> None:
        """There was no room for it on the wire: it stays, and may grow."""
        self.is_sealed = False
        self._line = self._frame = self._sse = self._chunk = None


class _Nothing(Place):
    """No bytes in any form."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(b"", b"")
        self._frame = self._line = self._sse = self._chunk = b""


NOTHING: Event = _Nothing()
FORGET: Event = _Forget()
HEARTBEAT: Event = _Heartbeat()
PING: Event = Event(b"ping", _encode(event_data.Ping()))
#: The gateway has lost, or regained, its MQTT broker. PROTOCOL B4.
UPSTREAM_LOST: Event = Event(b"upstream", _encode(event_data.Upstream(connected=False)))
UPSTREAM_BACK: Event = Event(b"upstream", _encode(event_data.Upstream(connected=True)))


def error(message: str, ref: str | int | None = None) -> Event:
    """The `error` event, whose text message is also the body of every 4xx answer.

    `ref`: of the operation that it answers.
    """
    return Event(b"error", _encode(event_data.Error(message, UNSET if ref is None else ref)))


def reconnect(after_ms: int, reason: str) -> Event:
    """Ask the client to come back after `after_ms` milliseconds."""
    return _Reconnect(after_ms, _encode(event_data.Reconnect(after_ms, reason)))


def position_mark(position: Position) -> Event:
    """Say where the stream stands, for a client that is cut before its next message."""
    return _PositionMark(str(position).encode())


def resume(status: str, missed: int | None, position: Position) -> Event:
    """The first event of a stream that was resumed. PROTOCOL B1."""
    return Event(b"resume", _encode(event_data.Resume(status, missed, str(position))))


def hello(version: str, ping_s: float, buffer: int, position: Position) -> Event:
    """What the stream is like, for a client that asked."""
    return Event(b"hello", _encode(event_data.Hello(version, ping_s, buffer, str(position))))


def closed(code: int, message: str) -> Event:
    """What a close frame says on WebSocket; SSE has no other way to say it."""
    return Event(b"closed", _encode(event_data.Closed(code, message)))


def mode_changed(mode: str, reason: str) -> Event:
    """The gateway has changed how the stream deals with overflow."""
    return Event(b"mode", _encode(event_data.Mode(mode, reason)))


def ack(operation: str, ref: str | int | None, position: Position | None) -> Event:
    """The answer to an operation that was carried out. PROTOCOL B3."""
    value = event_data.Ack(
        operation,
        UNSET if ref is None else ref,
        UNSET if position is None else str(position),
    )
    return Event(b"ack", _encode(value))
