"""Joins what one publish has for a stream, once for all streams that get the same."""

from __future__ import annotations

from typing import TypeAlias

from tracker.domain.message import Message
from tracker.domain.queue import Encoding

#: What one publish has for a stream, in order. Streams that get the same share it.
Burst: TypeAlias = tuple[Message, ...]


class Joiner:
    """Remembers the last join: in a fan-out the next stream mostly wants the same again."""

    __slots__ = ("_burst", "_encode", "_joined")

    def __init__(self) -> None:
        self._burst: Burst = ()
        self._encode: Encoding | None = None
        self._joined = b""

    def join(self, burst: Burst, encode: Encoding) -> bytes:
        """The wire forms of a burst's messages as one.

        One message alone is passed on as the bytes that all connections share.
        """
        if burst is self._burst and encode == self._encode:
            return self._joined
        if len(burst) == 1:
            joined = encode(burst[0])
        else:
            joined = b"".join([encode(message) for message in burst])
        self._burst, self._encode, self._joined = burst, encode, joined
        return joined
