"""An outbox that sends through ASGI: HTTP/2, and servers that are not our own.

Theory of operation: one write at a time is handed to the task that sends it; when that
task comes for the next one, the last has left.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

#: A send under way for longer than this means that the peer is behind. ASGI does not tell.
_REFUSING_AFTER_S = 0.1
_NEVER_S = float("inf")


class AsgiOutbox:
    """Holds at most one write, for one task that calls `next_write` again and again."""

    def __init__(self) -> None:
        self.writable = True
        self.on_writable: Callable[[], object] | None = None
        self.on_stalled: Callable[[], object] | None = None
        self._pending = b""
        self._sending_since_s = _NEVER_S
        self._finishing = False
        self._is_gone = False
        self._ring, self._doorbell = trio.open_memory_channel[None](1)
        self._drained = trio.Event()
        self._drained.set()

    @property
    def refusing(self) -> bool:
        """Whether the send under way takes so long that the peer must be behind."""
        return trio.current_time() - self._sending_since_s > _REFUSING_AFTER_S

    def write_nowait(self, data: bytes) -> None:
        """Hand `data`, which is not empty, to the sending task. Only while writable."""
        self.writable = False
        self._pending = data
        if self._drained.is_set():
            self._drained = trio.Event()
        self._wake()

    def push_nowait(self) -> None:
        """Nothing: it is a task that sends."""

    def finish(self) -> None:
        """Let `next_write` end once nothing is unsent."""
        self._finishing = True
        self._wake()

    def _wake(self) -> None:
        try:
            self._ring.send_nowait(None)
        except trio.WouldBlock:
            pass  # it has been rung already

    async def next_write(self) -> bytes | None:
        """The next bytes to send, or None at the end; the last ones have left.

        Cancellation: atomic, a cancelled call takes nothing.
        """
        if self._sending_since_s != _NEVER_S:
            self._sent()
        while not self._pending:
            if self._finishing:
                return None
            await self._doorbell.receive()
        self._sending_since_s = trio.current_time()
        return self._pending

    def _sent(self) -> None:
        self._pending = b""
        self._sending_since_s = _NEVER_S
        self.writable = True
        if self.on_writable is not None:
            self.on_writable()
        if self.writable:
            self._drained.set()

    def stalled(self) -> None:
        """The server has given the peer up: it took not a byte for too long."""
        self._is_gone = True
        self.writable = False
        self._drained.set()
        if self.on_stalled is not None:
            self.on_stalled()

    async def wait_writable(self) -> bool:
        """Wait until nothing is unsent; False when the peer is gone. Cancellation: atomic."""
        await self._drained.wait()
        return not self._is_gone
