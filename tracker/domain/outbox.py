"""The door through which a stream's bytes leave: what the domain knows of a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

#: The ASGI extension in which a server of ours offers the connection's `Door`, under the
#: key `door`. It may be used once the 101 or the response headers have left.
DOOR_EXTENSION = "tracker.door"


class Outbox(Protocol):
    """All that leaves one connection passes here, in order."""

    #: Nothing unsent is held, and the connection is open.
    writable: bool
    #: Called, synchronously, each time the outbox becomes writable again.
    on_writable: Callable[[], object] | None
    #: Called, synchronously, when the peer has taken no byte for too long.
    on_stalled: Callable[[], object] | None

    @property
    def refusing(self) -> bool:
        """Whether the peer is behind: bytes that it has not taken are still unsent."""

    def write_nowait(self, data: bytes) -> None:
        """Send, or keep what is not taken as the tail. Only while writable. Never raises."""

    def push_nowait(self) -> None:
        """Offer the tail once more, now, to a kernel that may have room again. Never raises.

        Without effect where it is a task that sends.
        """

    async def wait_writable(self) -> bool:
        """Wait until what is unsent now has left; False when the connection is gone.

        Cancellation: atomic, nothing changes.
        """


class Session(Protocol):
    """What the app leaves behind on a connection that it handed over. All synchronous."""

    def on_message(self, message: str | bytes) -> None:
        """The client sent a message (WebSocket only). Never raises."""

    @property
    def is_congested(self) -> bool:
        """Whether the client should not be read until what waits for it has left."""

    def leave(self) -> None:
        """The connection has ended, however that happened. Idempotent. Never raises."""


class Door(Protocol):
    """A connection as its server offers it to an app that streams."""

    @property
    def outbox(self) -> Outbox:
        """Where the stream's bytes go."""

    def hand_over(self, session: Session) -> None:
        """Keep the connection when the handler returns, and nothing of the handler.

        From now on nothing that the app's framework sends reaches the client; `session`
        hears what the client does, and is left when the connection ends.
        """

    def start_soon(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a task that lives no longer than the connection."""

    def end(self, last: bytes) -> None:
        """Send `last`, which may be empty, behind what is unsent, and close."""
