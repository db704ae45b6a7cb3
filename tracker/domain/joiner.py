"""Joins what one publish has for a stream, once for all streams that get the same."""

from __future__ import annotations

from collections.abc import Sequence

from tracker.domain.message import Message
from tracker.domain.queue import Encoding


class Joiner:
    """Remembers the last join: in a fan-out the next stream mostly wants the same again."""

    __slots__ = ("_encode", "_joined", "_messages")

    def __init__(self) -> None:
        self._messages: Sequence[Message] = ()
        self._encode: Encoding | None = None
        self._joined = b""

    def join(self, messages: list[Message], encode: Encoding) -> bytes:
        """The wire forms of `messages`, which is not changed hereafter, as one.

        One message alone is passed on as the bytes that all connections share.
        """
        if messages == self._messages and encode == self._encode:
            return self._joined
        if len(messages) == 1:
            joined = encode(messages[0])
        else:
            joined = b"".join([encode(message) for message in messages])
        self._messages, self._encode, self._joined = messages, encode, joined
        return joined
