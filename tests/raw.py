"""Clients of the wire contract that know nothing but sockets, and the bytes they expect.

Written from the RFCs alone, without the gateway's own encoders: a mistake there is found here.
"""

from __future__ import annotations

import dataclasses
import os
import re
import socket
import ssl
import struct
import time
from types import TracebackType
from typing import Self

DEADLINE_S = 20.0

STREAM = "/api/v1/stream"

#: RFC 6455 §1.3: the example's key, and the answer to it.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

HANDSHAKE = (
    "Connection: Upgrade\r\n"
    "Upgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\n"
)

TEXT = 0x81
CLOSE = 0x88
PING = 0x89


#: socket(7): more than `rmem_max`, for the privileged; what others may ask for at least.
SO_RCVBUFFORCE = 33
MAY_ASK_BYTES = 212_992


@dataclasses.dataclass(frozen=True)
class Position:
    """An id: of which life of the gateway, and where in it. PROTOCOL B1."""

    epoch: bytes
    sequence: int

    @property
    def id(self) -> bytes:
        """As it stands on the wire."""
        return b"%b-%d" % (self.epoch, self.sequence)

    def plus(self, messages: int) -> Position:
        """That of a later message."""
        return Position(self.epoch, self.sequence + messages)

    def is_after(self, other: Position) -> bool:
        """Whether it is a later one of the same life."""
        return self.epoch == other.epoch and self.sequence > other.sequence

    @classmethod
    def of(cls, event_id: bytes) -> Position:
        """The position that an id names. Raises: AssertionError when it has another form."""
        found = re.fullmatch(rb"([0-9a-z]{1,32})-(0|[1-9][0-9]{0,17})", event_id)
        assert found is not None, f"an id of another form: {event_id!r}"
        return cls(found[1], int(found[2]))


class Wire:
    """One TCP connection to a port of 127.0.0.1, in bytes; each call has an absolute deadline.

    `receive_buffer_bytes`: how much the kernel takes for a client that does not read;
    `trust`: speak TLS, with this context.
    """

    def __init__(
        self,
        port: int,
        *,
        receive_buffer_bytes: int | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._socket = socket.socket()
        self._buffer = bytearray()
        #: Where the stream stands, as far as it was told.
        self.position: Position | None = None
        self._start()
        if receive_buffer_bytes is not None:
            # before the connect, or the window that was offered is larger
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            if receive_buffer_bytes > MAY_ASK_BYTES and os.geteuid() == 0:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer_bytes)
        self._socket.settimeout(DEADLINE_S)
        try:
            self._socket.connect(("127.0.0.1", port))
            if trust is not None:
                self._socket = trust.wrap_socket(self._socket, server_hostname="127.0.0.1")
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises: AssertionError, with what came, at the stream's end."""
        self._start()
        while len(self._buffer) < size:
            self._receive()
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def read_until(self, end: bytes) -> bytes:
        """What comes until `end`, which is included. Raises: like `read`."""
        self._start()
        while (at := self._buffer.find(end)) < 0:
            self._receive()
        return self.read(at + len(end))

    def read_to_end(self) -> bytes:
        """What comes until the peer's end of the stream, or its reset."""
        self._start()
        while self._take():
            pass
        return self.read(len(self._buffer))

    def _start(self) -> None:
        self._deadline = time.monotonic() + DEADLINE_S

    def _receive(self) -> None:
        assert self._take(), f"the stream ended after {bytes(self._buffer)!r}"

    def _take(self) -> bool:
        """Take in what comes next; False at the end."""
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise AssertionError(
                f"nothing more within {DEADLINE_S:g} s after {bytes(self._buffer)!r}"
            ) from None
        except ConnectionResetError:
            return False
        self._buffer += data
        return bool(data)

    def read_frame(self) -> tuple[int, bytes]:
        """One unmasked frame: its first byte, and its payload. RFC 6455 §5.2."""
        frame = self.take_frame()
        return frame[0], frame[{126: 4, 127: 10}.get(frame[1], 2) :]

    def take_frame(self) -> bytes:
        """One unmasked frame, as it stands on the wire."""
        head = self.read(2)
        size = head[1]
        if size > 125:
            head += self.read(2 if size == 126 else 8)
            size = int.from_bytes(head[2:], "big")
        return head + self.read(size)

    def read_event(self) -> bytes:
        """One bare SSE event, with the empty line that ends it."""
        return self.read_until(b"\n\n")

    def read_chunk(self) -> bytes:
        """The body of one HTTP/1.1 chunk; empty at the end of the response."""
        body = self.take_chunk().partition(b"\r\n")[2]
        assert body.endswith(b"\r\n")
        return body[:-2]

    def take_chunk(self) -> bytes:
        """One HTTP/1.1 chunk, as it stands on the wire. RFC 9112 §7.1."""
        head = self.read_until(b"\r\n")
        return head + self.read(int(head, 16) + 2)

    def finish(self) -> None:
        """Say that nothing more will be sent (FIN)."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset (RST)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close. Idempotent."""
        self._socket.close()


def handshake_request(query: str) -> bytes:
    """A WebSocket handshake for the stream, `query` with its question mark."""
    return f"GET {STREAM}{query} HTTP/1.1\r\nHost: localhost\r\n{HANDSHAKE}\r\n".encode()


def sse_request(query: str, *, version: str = "1.1", method: str = "GET") -> bytes:
    """A plain request for the stream, as an `EventSource` or a proxy sends it."""
    return f"{method} {STREAM}{query} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()


def open_websocket(port: int, query: str, *, receive_buffer_bytes: int | None = None) -> Wire:
    """A WebSocket to the stream, its 101 read and checked."""
    wire = Wire(port, receive_buffer_bytes=receive_buffer_bytes)
    wire.send(handshake_request(query))
    status, headers = read_head(wire)
    assert (status, headers["sec-websocket-accept"]) == ("HTTP/1.1 101", ACCEPT)
    return wire


def open_sse(
    port: int, query: str, *, version: str = "1.1", receive_buffer_bytes: int | None = None
) -> Wire:
    """An SSE stream, its headers read and checked."""
    wire = Wire(port, receive_buffer_bytes=receive_buffer_bytes)
    wire.send(sse_request(query, version=version))
    status, headers = read_head(wire)
    assert (status, headers["content-type"]) == ("HTTP/1.1 200", "text/event-stream")
    return wire


def read_head(wire: Wire) -> tuple[str, dict[str, str]]:
    """The status line without its reason, and the headers by lower-case name."""
    return parse_head(wire.read_until(b"\r\n\r\n"))


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Like `read_head`, of bytes that were read. No header may stand twice."""
    status, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    fields = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in fields}
    assert len(headers) == len(fields), f"a header stands twice in {head!r}"
    return " ".join(status.split(" ")[:2]), headers


def text_frame(text: bytes) -> bytes:
    """The frame in which a server sends a text message. RFC 6455 §5.2."""
    size = len(text)
    if size < 126:
        return struct.pack("!BB", TEXT, size) + text
    if size < 1 << 16:
        return struct.pack("!BBH", TEXT, 126, size) + text
    return struct.pack("!BBQ", TEXT, 127, size) + text


def masked_frame(first: int, payload: bytes) -> bytes:
    """A short frame as a client sends it, with a mask of zeros. RFC 6455 §5.3."""
    assert len(payload) < 126
    return struct.pack("!BBI", first, 0x80 | len(payload), 0) + payload


def close_frame(code: int) -> bytes:
    """The Close frame with which a server ends a WebSocket. RFC 6455 §5.5.1."""
    return struct.pack("!BBH", CLOSE, 2, code)


def event_text(name: bytes, data: bytes, event_id: bytes | None = None) -> bytes:
    """PROTOCOL A2, B1: the WebSocket text message around one JSON value."""
    id_key = b"" if event_id is None else b'"id":"' + event_id + b'",'
    return b'{"event":"' + name + b'",' + id_key + b'"data":' + data + b"}"


def event_block(name: bytes, data: bytes, event_id: bytes | None = None) -> bytes:
    """PROTOCOL A2, B1: the SSE event around one JSON value."""
    id_line = b"" if event_id is None else b"id: " + event_id + b"\n"
    return b"event: " + name + b"\n" + id_line + b"data: " + data + b"\n\n"


def chunk(body: bytes) -> bytes:
    """One HTTP/1.1 chunk. RFC 9112 §7.1."""
    return f"{len(body):x}\r\n".encode() + body + b"\r\n"
