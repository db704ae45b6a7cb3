"""Who takes what a peer sends, in the course of a connection's life."""

from __future__ import annotations

from typing import Protocol

from hypercorn.events import RawData
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol


class Inbox(Protocol):
    """Takes bytes from a connection's reader, which waits until they have been dealt with."""

    async def handle(self, data: bytes) -> None:
        """Deal with `data`."""

    def let_go(self) -> None:
        """Nothing more comes: let go of whatever refers back to the connection."""


class NoInbox:
    """Nobody takes anything, before the connection has begun and after it has ended."""

    async def handle(self, data: bytes) -> None:
        """Forget `data`."""

    def let_go(self) -> None:
        """Nothing is held."""


NO_INBOX = NoInbox()


class HypercornInbox:
    """Hypercorn's protocol takes the requests."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: ProtocolWrapper) -> None:
        self._protocol = protocol

    async def handle(self, data: bytes) -> None:
        """Let Hypercorn deal with `data`. Cancellation: Hypercorn may be in the middle of it."""
        await self._protocol.handle(RawData(data))

    def let_go(self) -> None:
        """Part its protocol from its stream: each holds the other."""
        if isinstance(self._protocol.protocol, H11Protocol):
            self._protocol.protocol.stream = None
