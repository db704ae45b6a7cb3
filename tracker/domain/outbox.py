"""The door through which a stream's bytes leave: what the domain knows of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

#: The ASGI extension in which a server offers a connection's own outbox: a mapping whose
#: `open` is called, without arguments, once the 101 or the response headers have left.
OUTBOX_EXTENSION = "tracker.outbox"


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

    async def wait_writable(self) -> bool:
        """Wait until nothing is unsent; False when the connection is gone.

        Cancellation: atomic, nothing changes.
        """
