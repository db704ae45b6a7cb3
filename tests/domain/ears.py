"""What a client makes of the bytes that it gets, on each transport, by parsers of others.

WebSocket frames are read by wsproto, chunks by h11, event streams as the WHATWG has it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import h11
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping, TextMessage

from tests.event_stream import EventStream
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport


@dataclass(frozen=True, slots=True)
class Heard:
    """An event; or, without a name, the mere news of where the stream stands.

    `id`: what the client keeps as its position with it, if that is new to it.
    """

    name: str
    data: Any = None
    id: str | None = None


class Ear(Protocol):
    """Hears one connection."""

    def hear(self, data: bytes) -> list[Heard]:
        """What these bytes, the next ones, tell; only what is complete."""


class WebSocketEar:
    """Frames, or text messages with line feeds between, as `lines` says."""

    def __init__(self, *, lines: bool) -> None:
        self._client = None if lines else Connection(ConnectionType.CLIENT)
        self._text = ""
        self._rest = b""

    def hear(self, data: bytes) -> list[Heard]:
        return [self._read(text) for text in self._texts(data)]

    def _texts(self, data: bytes) -> list[str]:
        texts = []
        if self._client is None:
            *lines, self._rest = (self._rest + data).split(b"\n")
            return [line.decode() for line in lines]
        self._client.receive_data(data)
        for event in self._client.events():
            if isinstance(event, Ping):
                continue
            assert isinstance(event, TextMessage)
            self._text += event.data
            if event.message_finished:
                texts.append(self._text)
                self._text = ""
        return texts

    @staticmethod
    def _read(text: str) -> Heard:
        envelope = json.loads(text)
        assert list(envelope) in (["event", "data"], ["event", "id", "data"])
        return Heard(envelope["event"], envelope["data"], envelope.get("id"))


class EventStreamEar:
    """Server-sent events, as `chunked` says inside HTTP/1.1 chunks."""

    def __init__(self, *, chunked: bool) -> None:
        self._http = self._begin_response() if chunked else None
        self._stream = EventStream()
        self._rest = b""

    @staticmethod
    def _begin_response() -> h11.Connection:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert isinstance(client.next_event(), h11.Response)
        return client

    def hear(self, data: bytes) -> list[Heard]:
        heard = []
        *blocks, self._rest = (self._rest + self._body(data)).split(b"\n\n")
        for block in blocks:
            before, events = self._stream.last_event_id, len(self._stream.events)
            self._stream.feed(block + b"\n\n")
            assert self._stream.is_at_rest
            after = self._stream.last_event_id
            event_id = None if after == before else after
            if len(self._stream.events) > events:
                event = self._stream.events[-1]
                heard.append(Heard(event.type, json.loads(event.data), event_id))
            elif event_id is not None:
                heard.append(Heard("", None, event_id))
        return heard

    def _body(self, data: bytes) -> bytes:
        if self._http is None or not data:
            return data
        body = b""
        self._http.receive_data(data)
        while isinstance(event := self._http.next_event(), h11.Data):
            body += event.data
        assert event is h11.NEED_DATA
        return body


def ear_for(transport: Transport) -> Ear:
    """The ear of a client on `transport`."""
    ears: dict[Transport, Ear] = {
        WEBSOCKET: WebSocketEar(lines=False),
        WEBSOCKET_LINES: WebSocketEar(lines=True),
        SSE_BARE: EventStreamEar(chunked=False),
        SSE_CHUNKED: EventStreamEar(chunked=True),
    }
    return ears[transport]
