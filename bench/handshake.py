"""What a client says first, and what it expects to hear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Transport = Literal["websocket", "sse"]

# RFC 6455 §1.3: the example's key and the answer to it; the floor knows no other.
_KEY, _ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", b"s3pplmbitxaq9kygzzhzrbk+xoo="

_HEADERS: dict[Transport, str] = {
    "websocket": "Upgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {_KEY}\r\n",
    "sse": "Accept: text/event-stream\r\n",
}


class HandshakeError(Exception):
    """A server refused the handshake, or answered something else."""


def request(transport: Transport, device_ids: Iterable[str]) -> bytes:
    """The request for a stream."""
    return (
        f"GET /api/v1/stream?device_ids={','.join(device_ids)} HTTP/1.1\r\n"
        f"Host: 127.0.0.1\r\n{_HEADERS[transport]}\r\n"
    ).encode()


def check_head(head: bytes, transport: Transport) -> None:
    """Check the head of the answer. Raises: HandshakeError."""
    status, _, headers = head.partition(b"\r\n")
    lower = headers.lower()
    if transport == "websocket":
        fine = status.startswith(b"HTTP/1.1 101") and _ACCEPT in lower
    else:
        fine = (
            status.startswith(b"HTTP/1.1 200")
            and b"content-type: text/event-stream" in lower
            and b"transfer-encoding: chunked" in lower
        )
    if not fine:
        raise HandshakeError(f"to a {transport} handshake came {head!r}")
