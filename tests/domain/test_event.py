"""`tracker.domain.event`: each form of each event, and that it is made once."""

from __future__ import annotations

import json

import pytest

from tests.domain.test_wire import response_body, texts
from tests.event_stream import Dispatched, parse_event_stream
from tracker.domain import event, wire
from tracker.domain.event import HEARTBEAT, PING, Event
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, WEBSOCKET, WEBSOCKET_LINES, Transport

#: Every form of an event that leaves a connection.
TRANSPORTS = [WEBSOCKET, WEBSOCKET_LINES, SSE_BARE, SSE_CHUNKED]


def forms(some_event: Event) -> list[bytes]:
    """As the transports encode it."""
    return [transport.encode(some_event) for transport in TRANSPORTS]


def test_an_event_in_all_its_forms() -> None:
    assert forms(Event(b"message", b'{"a":1.10}')) == [
        b'\x81\x25{"event":"message","data":{"a":1.10}}',
        b'{"event":"message","data":{"a":1.10}}\n',
        b'event: message\ndata: {"a":1.10}\n\n',
        b'21\r\nevent: message\ndata: {"a":1.10}\n\n\r\n',
    ]


def test_the_keep_alive_of_the_contract() -> None:
    """PROTOCOL A2, the second row."""
    assert forms(PING) == [
        wire.text_frame(b'{"event":"ping","data":{"type":"keep-alive"}}'),
        b'{"event":"ping","data":{"type":"keep-alive"}}\n',
        b'event: ping\ndata: {"type":"keep-alive"}\n\n',
        wire.chunk(b'event: ping\ndata: {"type":"keep-alive"}\n\n'),
    ]


def test_a_heartbeat_is_traffic_and_no_event() -> None:
    assert forms(HEARTBEAT) == [
        wire.PING_FRAME,
        b"",  # ASGI has no Ping frame
        wire.SSE_COMMENT,
        wire.chunk(wire.SSE_COMMENT),
    ]


def test_the_error_of_the_contract() -> None:
    """PROTOCOL A2, the third row; the accented letters as they are."""
    assert event.error('Debe especificar "algo" – ñ').text() == (
        '{"event":"error","data":{"message":"Debe especificar \\"algo\\" – ñ"}}'.encode()
    )


def test_a_reconnect_carries_a_retry_line_on_sse_only() -> None:
    """PROTOCOL B4: `EventSource` obeys the line, a program reads the data."""
    reconnect = event.reconnect(750, "shutdown")
    data = '{"after_ms":750,"reason":"shutdown"}'
    text = f'{{"event":"reconnect","data":{data}}}'
    assert texts(reconnect.frame()) == [text]
    assert reconnect.line() == text.encode() + b"\n"
    [chunk] = response_body(reconnect.chunk())
    assert chunk == reconnect.sse()
    stream = parse_event_stream(reconnect.sse())
    assert (stream.events, stream.retry_ms) == ([Dispatched("reconnect", data)], 750)


@pytest.mark.parametrize("transport", TRANSPORTS, ids=["frame", "line", "sse", "chunk"])
@pytest.mark.parametrize(
    "some_event",
    [Event(b"message", b"{}"), PING, HEARTBEAT, event.reconnect(1, "shutdown")],
    ids=["event", "ping", "heartbeat", "reconnect"],
)
def test_a_form_is_made_once_and_shared(some_event: Event, transport: Transport) -> None:
    """DESIGN, law 1: every client shares the same bytes."""
    assert transport.encode(some_event) is transport.encode(some_event)


def test_nothing_special_is_made_by_an_override() -> None:
    """A transport holds `Event.frame` itself: an override of it would never be called."""
    overridden = [
        f"{kind.__name__}.{name}"
        for kind in Event.__subclasses__()
        for name in ("text", "frame", "line", "sse", "chunk")
        if name in vars(kind)
    ]
    assert overridden == []


def test_the_text_of_an_event_is_json() -> None:
    assert json.loads(PING.text()) == {"event": "ping", "data": {"type": "keep-alive"}}
