"""`tracker.domain.wire` against parsers that others wrote: wsproto, h11, and the WHATWG's rules."""

from __future__ import annotations

import json

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Event, Ping, TextMessage

from tests.event_stream import Dispatched, EventStream, parse_event_stream
from tracker.domain import wire

modest = settings(max_examples=50, deadline=None)

#: Where the length of a frame takes another form, RFC 6455 §5.2.
FRAME_BOUNDARIES = [0, 1, 124, 125, 126, 127, 128, 65_534, 65_535, 65_536, 65_537, 70_000]

names = st.sampled_from(["message", "ping", "error", "reconnect"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


def received(data: bytes) -> list[Event]:
    """What a WebSocket client gets of `data`, its messages put together."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(data)
    return list(client.events())


def texts(data: bytes) -> list[str]:
    """The text messages in `data`, which holds nothing else and nothing in part."""
    messages, parts = [], []
    for event in received(data):
        assert isinstance(event, TextMessage)
        parts.append(event.data)
        if event.message_finished:
            messages.append("".join(parts))
            parts = []
    assert parts == []
    return messages


def response_body(chunks: bytes) -> list[bytes]:
    """The body that an HTTP/1.1 client reads of `chunks`, chunk by chunk."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body, current = [], b""
    while isinstance(event := client.next_event(), h11.Data):
        current += event.data
        if event.chunk_end:
            body.append(current)
            current = b""
    assert event is h11.NEED_DATA
    assert current == b""
    return body


def data_of(text: str) -> bytes:
    return json.dumps(text).encode()


# WebSocket


@pytest.mark.parametrize("size", FRAME_BOUNDARIES)
def test_a_frame_is_one_text_message(size: int) -> None:
    assert received(wire.text_frame(b"x" * size)) == [
        TextMessage(data="x" * size, frame_finished=True, message_finished=True)
    ]


@modest
@given(st.integers(0, 70_000))
def test_a_frame_of_any_size_is_one_text_message(size: int) -> None:
    assert texts(wire.text_frame(b"x" * size)) == ["x" * size]


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_the_header_of_a_frame_is_the_shortest_and_unmasked(size: int, header: bytes) -> None:
    assert wire.text_frame(b"x" * size) == header + b"x" * size


@modest
@given(st.lists(st.text(max_size=300)))
def test_frames_that_are_joined_stay_apart(messages: list[str]) -> None:
    frames = b"".join(wire.text_frame(message.encode()) for message in messages)
    assert texts(frames) == messages


def test_a_ping_frame_is_a_ping_and_no_message() -> None:
    assert received(wire.PING_FRAME) == [Ping(payload=b"")]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1012, 4401, 4999])
def test_a_close_frame_tells_its_code(code: int) -> None:
    """PROTOCOL B5."""
    assert received(wire.close_frame(code)) == [CloseConnection(code=code, reason="")]
    assert wire.is_close_frame(wire.close_frame(code))


def test_a_close_frame_is_known_from_every_other() -> None:
    server = Connection(ConnectionType.SERVER)
    close = server.send(CloseConnection(code=1012, reason="restart"))
    frames = [close, wire.PING_FRAME, wire.text_frame(b"x"), wire.text_frame(b""), b""]
    assert [wire.is_close_frame(frame) for frame in frames] == [True, False, False, False, False]


@modest
@given(names, values)
def test_a_text_message_is_the_json_envelope(name: str, value: object) -> None:
    """PROTOCOL A2: `{"event":…,"data":…}`, the value untouched."""
    data = json.dumps(value).encode()
    text = wire.text_message(name.encode(), data)
    assert text == b'{"event":"%b","data":%b}' % (name.encode(), data)
    assert json.loads(text) == {"event": name, "data": value}


# Server-Sent Events


@modest
@given(st.lists(st.tuples(names, st.text() | st.none()), max_size=5))
@example([("message", "\u2028\u2029\u0085\ufeff: data")])  # line breaks elsewhere, not in SSE
def test_sse_events_are_dispatched_one_by_one(events: list[tuple[str, object]]) -> None:
    encoded = [(name, json.dumps(value, ensure_ascii=False)) for name, value in events]
    stream = parse_event_stream(
        b"".join(wire.sse_event(name.encode(), data.encode()) for name, data in encoded)
    )
    assert stream.events == [Dispatched(name, data) for name, data in encoded]
    assert stream.is_at_rest


@modest
@given(st.text(), st.integers(1, 7))
def test_sse_events_may_come_in_pieces(text: str, piece_bytes: int) -> None:
    data = wire.sse_event(b"message", data_of(text)) + wire.SSE_COMMENT
    stream = EventStream()
    for start in range(0, len(data), piece_bytes):
        stream.feed(data[start : start + piece_bytes])
    assert (stream.events, stream.comments) == ([Dispatched("message", json.dumps(text))], 1)


def test_a_comment_is_seen_by_nobody() -> None:
    stream = parse_event_stream(wire.SSE_COMMENT)
    assert (stream.events, stream.comments, stream.is_at_rest) == ([], 1, True)


def test_the_parser_of_these_tests_follows_the_standard() -> None:
    """The examples of WHATWG HTML §9.2.6, and the corners that we lean on."""
    stream = parse_event_stream(
        b"\xef\xbb\xbfdata: YHOO\ndata: +2\r\ndata: 10\r\r"
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"
        b"data\n\ndata\ndata\n\nevent: lost\n\nretry: 10x\nretry: 250\ndata: half"
    )
    assert stream == EventStream(
        events=[
            Dispatched("message", "YHOO\n+2\n10"),
            Dispatched("message", "first event", "1"),
            Dispatched("message", "second event"),
            Dispatched("message", ""),
            Dispatched("message", "\n"),
        ],
        comments=1,
        retry_ms=250,
        _buffer=b"data: half",
        _is_begun=True,
    )
    assert not stream.is_at_rest


# Chunks


@modest
@given(st.lists(st.integers(1, 70_000), max_size=4))
@example([9, 10, 15, 16, 255, 256, 4095, 4096, 65_535, 65_536])
def test_chunks_are_a_body_in_as_many_pieces(sizes: list[int]) -> None:
    bodies = [b"x" * size for size in sizes]
    assert response_body(b"".join(map(wire.chunk, bodies))) == bodies


def test_the_last_chunk_ends_the_body_and_not_the_connection() -> None:
    """What stands behind it is the next answer."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.receive_data(head + wire.chunk(b"x") + wire.LAST_CHUNK + b"HTTP/1.1 ")
    events = [client.next_event() for _ in range(3)]
    assert isinstance(events[1], h11.Data)
    assert isinstance(events[2], h11.EndOfMessage)
    assert client.trailing_data == (b"HTTP/1.1 ", False)


def test_a_chunk_holds_what_looks_like_a_chunk() -> None:
    bodies = [b"5\r\nhello\r\n", b"0\r\n\r\n", b"\r\n"]
    assert response_body(b"".join(map(wire.chunk, bodies))) == bodies
