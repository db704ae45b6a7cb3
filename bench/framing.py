"""What a server's bytes after the handshake hold: WebSocket frames, or events in HTTP chunks.

A framing cuts a buffer into *units*: the smallest pieces that stand for themselves. A unit is
one WebSocket frame (RFC 6455 §5.2), or the HTTP/1.1 chunks (RFC 9112 §7.1) up to the first that
ends an event of an event stream. Pure functions of bytes; each raises `FramingError` for what no
correct server sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

CLOSE_OPCODE = 8
_TEXT = 1
_KNOWN_OPCODES = frozenset({_TEXT, 2, CLOSE_OPCODE, 9, 10})


class FramingError(Exception):
    """Bytes that break the protocol."""


class Unit(NamedTuple):
    """One piece of a stream: where it ends in the buffer, and the texts of its events.

    `closes` says that the server ends the stream with it.
    """

    end: int
    texts: tuple[bytes, ...]
    closes: bool = False


Framing = Callable[[bytes, int], Unit | None]
"""The unit that starts at an offset of a buffer; None while it is incomplete."""


def websocket_unit(buffer: bytes, at: int) -> Unit | None:
    """One WebSocket frame: a server's are unmasked, ours are never fragmented.

    Raises: FramingError.
    """
    have = len(buffer) - at
    if have < 2:
        return None
    first, size = buffer[at], buffer[at + 1]
    if first & 0xF0 != 0x80 or first & 0x0F not in _KNOWN_OPCODES:
        raise FramingError(f"a frame starts with {first:#04x}; expected a whole, known one")
    start = at + 2
    if size == 126:
        start += 2
        size = int.from_bytes(buffer[at + 2 : start], "big")
    elif size == 127:
        start += 8
        size = int.from_bytes(buffer[at + 2 : start], "big")
    elif size > 127:
        raise FramingError("a server's frame is masked")
    end = start + size
    if len(buffer) < max(start, end):
        return None
    opcode = first & 0x0F
    return Unit(end, (buffer[start:end],) if opcode == _TEXT else (), opcode == CLOSE_OPCODE)


def sse_unit(buffer: bytes, at: int) -> Unit | None:
    """The chunks up to the first that ends an event, or the chunk that ends the body.

    Raises: FramingError.
    """
    body = b""
    while True:
        line_end = buffer.find(b"\r\n", at, at + 32)
        if line_end < 0:
            if len(buffer) - at >= 32:
                raise FramingError(f"no chunk size in {buffer[at : at + 32]!r}")
            return None
        try:
            size = int(buffer[at:line_end], 16)
        except ValueError:
            raise FramingError(f"a chunk size is {buffer[at:line_end]!r}") from None
        start = line_end + 2
        end = start + size
        if len(buffer) < end + 2:
            return None
        if buffer[end : end + 2] != b"\r\n":
            raise FramingError(f"a chunk of {size} bytes is followed by {buffer[end : end + 2]!r}")
        at = end + 2
        if size == 0:
            return Unit(at, (), closes=True)
        body += buffer[start:end]
        if body.endswith(b"\n\n"):
            return Unit(at, tuple(body[:-2].split(b"\n\n")))
