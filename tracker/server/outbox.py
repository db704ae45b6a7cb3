"""Everything that leaves one connection, in order: Hypercorn's bytes and ours.

Laws:
- Order: bytes leave in the order in which they were given, whoever gave them.
- While the kernel has refused bytes, the rest of that one write is the tail, and the
  outbox is not writable: no stream gives it more.
- The deadline restarts with each byte that the kernel takes. Past it the peer is stalled.
- Once closed, the outbox touches no descriptor: the number may be another client's.

Theory of operation: `write_nowait` makes one system call and is done, in the common case.
Only when the kernel refuses bytes is a task started, which ends with the tail. Whoever cannot
wait for that task's turn, because something would be lost meanwhile, pushes.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from tracker.server.sockets import SocketStream, wait_progress

_CLOSE_NOTIFY_S = 1.0

#: Starts a task that lives as long as the connection.
Spawn = Callable[[Callable[[], Awaitable[None]]], object]


class Outbox:
    """The outbox of a plain TCP connection.

    `sock`: non-blocking, owned by the connection. `stall_s`: seconds without progress
    after which the peer is stalled. `spawn`: starts the task that drains the tail.
    `on_broken`: called once when the peer cannot be written to any more.
    """

    __slots__ = (
        "_closed",
        "_finishing",
        "_is_draining",
        "_left_bytes",
        "_sock",
        "_spawn",
        "_stall_s",
        "_tail",
        "_waiters",
        "on_broken",
        "on_stalled",
        "on_writable",
        "writable",
    )

    def __init__(
        self,
        sock: socket.socket,
        *,
        stall_s: float,
        spawn: Spawn,
        on_broken: Callable[[], object],
    ) -> None:
        self._sock = sock
        self._stall_s = stall_s
        self._spawn = spawn
        self._tail = bytearray()
        #: How many bytes have left the tail, ever.
        self._left_bytes = 0
        self._waiters: trio.lowlevel.ParkingLot | None = None
        self._finishing = False
        self._closed = False
        self._is_draining = False
        self.writable = True
        self.on_writable: Callable[[], object] | None = None
        self.on_stalled: Callable[[], object] | None = None
        self.on_broken = on_broken

    @property
    def refusing(self) -> bool:
        """Whether the kernel has refused bytes that are still unsent."""
        return bool(self._tail)

    def write_nowait(self, data: bytes) -> None:
        """Hand `data` to the kernel; what it does not take is the tail. Never raises.

        Only while `writable`. Hot path: S2b guards it.
        """
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except TimeoutError:
            self._stall()  # the kernel gave the peer up, and we are the first whom it tells
            return
        except OSError:
            self._break()
            return
        if sent < len(data):
            self._tail += memoryview(data)[sent:]
            self.writable = False
            if not self._is_draining:
                self._is_draining = True
                self._spawn(self._drain)

    def push_nowait(self) -> None:
        """Offer the kernel once more what it refused. Never raises."""
        if self._tail and not self._finishing:
            self._push()
            if not self._tail:
                self._drained()

    def put(self, data: bytes) -> None:
        """Send `data` behind what is unsent, also while not writable. Never raises.

        For those who then wait (`wait_writable`), so that what is unsent stays bounded.
        Without effect when the connection is gone or finishing.
        """
        if self.writable:
            self.write_nowait(data)
        elif not self._closed and not self._finishing:
            self._tail += data

    async def wait_writable(self) -> bool:
        """Wait until what is unsent now has left; False when the connection is gone.

        A stream may have refilled the tail by then: whoever answers a peer that is behind,
        as the reader does, must not wait for it to catch up.
        Cancellation: atomic, nothing changes.
        """
        end = self._left_bytes + len(self._tail)
        if not self._tail:
            await trio.lowlevel.checkpoint()
        while self._left_bytes < end and not self._closed:
            if self._waiters is None:
                self._waiters = trio.lowlevel.ParkingLot()
            await self._waiters.park()
        return not self._closed

    async def _drain(self) -> None:
        while self._tail and not self._closed:
            left_bytes = self._left_bytes
            # What `push_nowait` got rid of meanwhile is progress too.
            if await wait_progress(self._sock, self._stall_s) or self._left_bytes > left_bytes:
                self._push()
            else:
                self.stalled()
        self._is_draining = False
        if not self.writable:
            self._drained()

    def _push(self) -> None:
        if self._closed:
            return
        try:
            sent = self._sock.send(self._tail)
        except BlockingIOError:
            return
        except TimeoutError:
            self._stall()
            return
        except OSError:
            self._break()
            return
        self._take(sent)

    def _take(self, sent_bytes: int) -> None:
        del self._tail[:sent_bytes]
        self._left_bytes += sent_bytes
        self._wake()

    def _drained(self) -> None:
        if self._closed:
            return
        if self._finishing:
            self._shut()
        else:
            self.writable = True
            if self.on_writable is not None:
                self.on_writable()
        self._wake()

    def finish(self) -> None:
        """Take nothing more; when the tail has left, tell the peer that this was all."""
        self.writable = False
        if not self._finishing and not self._closed:
            self._finishing = True
            if not self._tail:
                self._shut()

    def _shut(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer was faster

    def stalled(self) -> None:
        """The kernel has given the peer up: as if the deadline had passed."""
        if not self._closed:
            self._stall()

    def _stall(self) -> None:
        if self.on_stalled is not None:
            self.on_stalled()
        self._break()

    def _break(self) -> None:
        tell = self.on_broken
        self.close()
        tell()

    def close(self) -> None:
        """Forget the descriptor, at once; whoever waits is woken. Idempotent."""
        self._closed = True
        self.writable = False
        self._tail.clear()
        self._wake()
        # Both refer to the connection, which refers to us.
        self.on_broken = self._spawn = _ignore

    def _wake(self) -> None:
        if self._waiters is not None:
            self._waiters.unpark_all()


def _ignore(run: object = None) -> None:
    """The connection has ended: nothing runs, nobody is told."""


class TlsOutbox(Outbox):
    """The outbox of a TLS connection: every write is a tail, which a task encrypts.

    `refusing` tells whether the kernel, not the task, is behind.
    """

    __slots__ = ("_stream", "_transport")

    def __init__(
        self,
        stream: trio.SSLStream[SocketStream],
        transport: SocketStream,
        sock: socket.socket,
        *,
        stall_s: float,
        spawn: Spawn,
        on_broken: Callable[[], object],
    ) -> None:
        super().__init__(sock, stall_s=stall_s, spawn=spawn, on_broken=on_broken)
        self._stream = stream
        self._transport = transport

    @property
    def refusing(self) -> bool:
        return self._transport.refusing

    def write_nowait(self, data: bytes) -> None:
        """Keep `data` for the task that encrypts and sends it. Only while `writable`."""
        self._tail += data
        self.writable = False
        self._spawn(self._drain)

    def push_nowait(self) -> None:
        """Nothing: it is a task that encrypts and sends."""

    async def _drain(self) -> None:
        while self._tail and not self._closed:
            data = bytes(self._tail)
            try:
                await self._stream.send_all(data)
            except trio.TooSlowError:
                self.stalled()
                return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                if not self._closed:
                    self._break()
                return
            self._take(len(data))
        self._drained()

    def _shut(self) -> None:
        self._spawn(self._close_notify)

    async def _close_notify(self) -> None:
        # RFC 8446 §6.1: without it the peer cannot tell the end from a cut.
        with trio.move_on_after(_CLOSE_NOTIFY_S):
            try:
                await self._stream.aclose()
            except (trio.TooSlowError, trio.BrokenResourceError):
                pass
        if not self._closed:
            super()._shut()
