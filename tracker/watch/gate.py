"""The byte stream under a WebSocket, which only `101 Switching Protocols` opens.

trio-websocket waits for ever, or until its time-out, when a handshake is answered with anything
but a complete HTTP answer: a proxy that knows no WebSockets passes on an SSE stream, which has
no end; a port that speaks something else closes. Here every such answer becomes a
`HandshakeError` that says what came instead, and trio-websocket is shown an end of the stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec
import trio

from tracker.watch.errors import HandshakeError

_HEAD_LIMIT_BYTES = 64 * 1024
_BODY_LIMIT_BYTES = 16 * 1024
#: What tells of a refusal comes with it; a body that goes on is a stream.
_BODY_S = 1.0
_SHOWN_CHARS = 300

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_SWITCHING_PROTOCOLS = 101


class Gate(trio.abc.Stream):
    """`stream`, but it begins with the answer to a WebSocket handshake."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._is_open = False
        #: Set when no byte will come any more.
        self.ended = trio.Event()
        #: Why the handshake failed, once `ended` is set without it.
        self.refusal: HandshakeError | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive as a stream does; at first all bytes to the end of the head, and more."""
        data: bytes | bytearray = b""
        try:
            if self._is_open:
                data = await self._stream.receive_some(max_bytes)
            else:
                data = await self._receive_head()
        finally:
            if not data:
                self.ended.set()
        return data

    async def _receive_head(self) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head:
            try:
                data = await self._stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            head += data
            if not data or len(head) > _HEAD_LIMIT_BYTES:
                self.refusal = HandshakeError(
                    f"no HTTP answer but {_shown(head)}"
                    if head
                    else "the connection was closed without an answer"
                )
                return b""
        line = _STATUS_LINE.match(head)
        if line is None:
            self.refusal = HandshakeError(f"no HTTP answer but {_shown(head)}")
            return b""
        status = int(line[1])
        if status == _SWITCHING_PROTOCOLS:
            self._is_open = True
            return head
        head, _, body = head.partition(b"\r\n\r\n")
        headers = _parse_headers(head)
        self.refusal = _refusal(status, headers, await self._receive_body(body, headers))
        return b""

    async def _receive_body(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        length = headers.get("content-length", "")
        wanted = min(int(length) if length.isdigit() else _BODY_LIMIT_BYTES, _BODY_LIMIT_BYTES)
        with trio.move_on_after(_BODY_S):
            while len(body) < wanted:
                try:
                    data = await self._stream.receive_some()
                except trio.BrokenResourceError:
                    break
                if not data:
                    break
                body += data
        return body

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close it."""
        self.ended.set()
        await self._stream.aclose()


def _parse_headers(head: bytes) -> dict[str, str]:
    pairs = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _refusal(status: int, headers: Mapping[str, str], body: bytes) -> HandshakeError:
    location = headers.get("location")
    retry_after = headers.get("retry-after", "")
    content_type = headers.get("content-type", "")
    if location is not None and 300 <= status < 400:
        what = f"redirected to {location}"
    elif status == 200:
        what = f"answered as if no WebSocket had been asked for ({content_type or 'no type'})"
    else:
        what = f"refused with HTTP status {status}"
    message = message_in(body)
    return HandshakeError(
        f"{what}: {message}" if message else what,
        status=status,
        location=location,
        retry_after_s=float(retry_after) if retry_after.isdigit() else None,
    )


def message_in(body: bytes) -> str:
    """The message of the gateway's JSON envelope; "" where there is none."""
    start, end = body.find(b"{"), body.rfind(b"}")
    try:
        envelope = msgspec.json.decode(body[start : end + 1])
        return str(envelope["data"]["message"])[:_SHOWN_CHARS]
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, UnicodeDecodeError):
        return ""


def _shown(data: bytes) -> str:
    return repr(data[:40])[1:] + ("…" if len(data) > 40 else "")
