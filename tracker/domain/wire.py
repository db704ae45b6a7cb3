"""The bytes of the wire contract: WebSocket frames, SSE events, HTTP chunks.

Theory of operation: everything a client is told is an event, a name and one JSON
value. On WebSocket it is the text message `{"event":<name>,"data":<value>}`, on SSE an
`event:` and a `data:` line. A frame that a server sends is unmasked (RFC 6455 §5.1), so
it is the same bytes for every client, and so is an SSE event with or without the
HTTP/1.1 chunk around it: each form is made once and shared.
"""

from __future__ import annotations

# FIN with opcode text, close, ping: RFC 6455 §5.2, §11.8.
_TEXT = 0x81
_OPCODE_CLOSE = 0x8
_OPCODE_MASK = 0x0F

#: An empty Ping frame (RFC 6455 §5.5.2), the same for every client.
PING_FRAME = b"\x89\x00"

#: An SSE comment: the browser ignores it, a proxy sees traffic.
SSE_COMMENT = b":\n\n"


def text_message(name: bytes, data: bytes, event_id: bytes = b"") -> bytes:
    """The JSON text message of an event; `data` is one JSON value."""
    if event_id:
        return b'{"event":"%b","id":"%b","data":%b}' % (name, event_id, data)
    return b'{"event":"%b","data":%b}' % (name, data)


def text_frame(text: bytes) -> bytes:
    """One unmasked text frame around UTF-8 `text`. RFC 6455 §5.2."""
    size = len(text)
    if size <= 125:
        return bytes((_TEXT, size)) + text
    if size <= 0xFFFF:
        return bytes((_TEXT, 126)) + size.to_bytes(2, "big") + text
    return bytes((_TEXT, 127)) + size.to_bytes(8, "big") + text


def is_close_frame(frame: bytes) -> bool:
    """Whether `frame`, a whole frame, is a Close frame. RFC 6455 §5.5.1."""
    return bool(frame) and frame[0] & _OPCODE_MASK == _OPCODE_CLOSE


def sse_event(name: bytes, data: bytes, event_id: bytes = b"") -> bytes:
    """One SSE event; `data` is one JSON value without line breaks."""
    if event_id:
        return b"event: %b\nid: %b\ndata: %b\n\n" % (name, event_id, data)
    return b"event: %b\ndata: %b\n\n" % (name, data)


def sse_position(event_id: bytes) -> bytes:
    """A block that is only an id: the browser stores it and dispatches nothing."""
    return b"id: %b\n\n" % event_id


def chunk(body: bytes) -> bytes:
    """One chunk of the chunked transfer coding around a non-empty body. RFC 9112 §7.1."""
    return b"%x\r\n%b\r\n" % (len(body), body)


#: The end of a chunked body. RFC 9112 §7.1.
LAST_CHUNK = b"0\r\n\r\n"


def close_frame(code: int) -> bytes:
    """A Close frame without a reason. RFC 6455 §5.5.1."""
    return b"\x88\x02" + code.to_bytes(2, "big")
