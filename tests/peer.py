"""A client over a raw connection that judges every byte it gets.

Strict on purpose: a library forgives what a browser, or the next client, may not.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import socket
from dataclasses import dataclass

import trio

#: For whatever must come in time; generous, since nothing here measures a time.
DEADLINE_S = 20.0

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

_RECEIVE_BYTES = 64 * 1024
_HEAD_LIMIT_BYTES = 64 * 1024
#: RFC 6455 §1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WireError(AssertionError):
    """The server sent what it never may."""


@dataclass(frozen=True)
class Frame:
    """A WebSocket frame."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")


@dataclass(frozen=True)
class Response:
    """An HTTP/1 response; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Peer:
    """A client's side of a connection."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self._arrived = bytearray()
        self._has_ended = False

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        with trio.fail_after(DEADLINE_S):
            await self.stream.send_all(data)

    async def finish(self) -> None:
        """Say that nothing more will be sent: a FIN."""
        assert isinstance(self.stream, trio.SocketStream)
        await self.stream.send_eof()

    async def close(self) -> None:
        """Close with a FIN, or with a RST when something is unread."""
        await self.stream.aclose()

    def forget(self) -> None:
        """Close the descriptor, without a word on any other layer. Idempotent."""
        stream = self.stream
        if isinstance(stream, trio.SSLStream):
            stream = stream.transport_stream
        stream.socket.close()

    async def reset(self) -> None:
        """Close with a RST."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await self.stream.aclose()

    async def _more(self) -> bool:
        if not self._has_ended:
            with trio.fail_after(DEADLINE_S):
                data = await self.stream.receive_some(_RECEIVE_BYTES)
            self._arrived += data
            self._has_ended = not data
        return not self._has_ended

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._arrived) < size:
            if not await self._more():
                raise WireError(f"the end inside {bytes(self._arrived)!r}")
        data = bytes(self._arrived[:size])
        del self._arrived[:size]
        return data

    async def read_until(self, end: bytes, limit_bytes: int = _HEAD_LIMIT_BYTES) -> bytes:
        """What comes up to and with `end`."""
        while (at := self._arrived.find(end)) < 0:
            assert len(self._arrived) <= limit_bytes
            if not await self._more():
                raise WireError(f"the end before {end!r}: {bytes(self._arrived)!r}")
        return await self.read_exactly(at + len(end))

    async def read_end(self) -> bytes:
        """All that comes until the server has finished; a reset raises."""
        while await self._more():
            pass
        data = bytes(self._arrived)
        self._arrived.clear()
        return data

    # HTTP

    async def request(self, target: str, *headers: str, method: str = "GET") -> Response:
        """Ask for `target` and read the whole answer."""
        await self.send(request_head(target, *headers, method=method))
        return await self.read_response(with_body=method != "HEAD")

    async def read_head(self) -> Response:
        """The head of a response; the body is left to whoever asks."""
        head = (await self.read_until(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        if version != "HTTP/1.1":
            raise WireError(f"the status line {status_line!r}")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(": ")
            if not colon or name.lower() in headers:
                raise WireError(f"the header line {line!r}")
            headers[name.lower()] = value
        return Response(int(status), headers, b"")

    async def read_response(self, *, with_body: bool = True) -> Response:
        """A whole response."""
        head = await self.read_head()
        body = b""
        if with_body and head.status >= 200:
            if head.headers.get("transfer-encoding") == "chunked":
                while part := await self.read_chunk():
                    body += part
            elif "content-length" in head.headers:
                body = await self.read_exactly(int(head.headers["content-length"]))
            else:
                body = await self.read_end()
        return Response(head.status, head.headers, body)

    async def read_chunk(self) -> bytes:
        """One chunk of the chunked coding; empty at the end of the body. RFC 9112 §7.1."""
        line = await self.read_until(b"\r\n", 16)
        size = int(line, 16)
        data = await self.read_exactly(size)
        if await self.read_exactly(2) != b"\r\n":
            raise WireError(f"no line end behind the chunk {data!r}")
        return data

    # Server-Sent Events

    async def open_sse(self, device_ids: str, *headers: str) -> Response:
        """Ask for a stream of events; returns the head of the answer."""
        await self.send(request_head(f"/api/v1/stream?device_ids={device_ids}", *headers))
        return await self.read_head()

    async def read_position(self) -> str:
        """The id in the block with which a stream of events begins. PROTOCOL B1."""
        block = await self.read_chunk()
        found = re.fullmatch(rb"id: ([0-9a-z]{1,32}-(?:0|[1-9][0-9]{0,17}))\n\n", block)
        if found is None:
            raise WireError(f"no position at the start of the stream, but {block!r}")
        return found[1].decode()

    # WebSocket

    async def open_websocket(self, device_ids: str, *headers: str, behind: bytes = b"") -> Response:
        """Shake hands; `behind` is sent in the same segment as the request."""
        key = base64.b64encode(os.urandom(16))
        target = f"/api/v1/stream?device_ids={device_ids}"
        await self.send(handshake(target, *headers, key=key) + behind)
        head = await self.read_head()
        if head.status == 101:
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
            assert head.headers["sec-websocket-accept"] == accept
        return head

    async def read_frame(self) -> Frame:
        """One frame, as a server may send it: whole, unmasked, no bit set too many."""
        first, second = await self.read_exactly(2)
        opcode, size = first & 0x0F, second & 0x7F
        if first & 0xF0 != 0x80 or second & 0x80 or opcode not in (TEXT, CLOSE, PING, PONG):
            raise WireError(f"a frame that begins with {first:#x} {second:#x}")
        if size > 125:
            if opcode & 0x8:
                raise WireError(f"a control frame with the length {size}")
            shortest = 126 if size == 126 else 0x10000
            size = int.from_bytes(await self.read_exactly(2 if size == 126 else 8), "big")
            if size < shortest:
                raise WireError(f"a frame whose length {size} is not in its shortest form")
        payload = await self.read_exactly(size)
        if opcode == TEXT:
            payload.decode()
        return Frame(opcode, payload)

    async def read_frames_to_end(self) -> list[Frame]:
        """Every frame until the server has finished; nothing may follow a Close frame."""
        frames: list[Frame] = []
        while self._arrived or await self._more():
            if frames and frames[-1].opcode == CLOSE:
                raise WireError(f"behind a Close frame: {bytes(self._arrived)!r}")
            frames.append(await self.read_frame())
        return frames


def request_head(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request without a body."""
    lines = [f"{method} {target} HTTP/{version}", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def handshake(
    target: str, *headers: str, method: str = "GET", key: bytes = b"AAAAAAAAAAAAAAAAAAAAAA=="
) -> bytes:
    """A WebSocket handshake. RFC 6455 §4.1."""
    return request_head(
        target,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key.decode()}",
        *headers,
        method=method,
    )


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """A frame as a client sends it, masked. RFC 6455 §5.3."""
    size = len(payload)
    if size <= 125:
        length = bytes((0x80 | size,))
    elif size <= 0xFFFF:
        length = bytes((0x80 | 126,)) + size.to_bytes(2, "big")
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    keys = mask * (size // 4 + 1)
    masked = bytes(byte ^ key for byte, key in zip(payload, keys, strict=False))
    return bytes(((0x80 if fin else 0) | opcode,)) + length + mask + masked


def close_frame(code: int) -> bytes:
    """A Close frame as a client sends it."""
    return client_frame(CLOSE, code.to_bytes(2, "big"))


async def connect(port: int, *, receive_buffer_bytes: int | None = None) -> Peer:
    """Connect to a port of 127.0.0.1; a small receive buffer makes a small TCP window."""
    sock = trio.socket.socket()
    if receive_buffer_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    try:
        with trio.fail_after(DEADLINE_S):
            await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return Peer(trio.SocketStream(sock))
