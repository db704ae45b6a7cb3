"""Peers that misbehave, over real sockets. Each is a client; none says that it is one."""

from __future__ import annotations

import ctypes
import random
import socket
from types import TracebackType
from typing import Self

import trio

from tests.peer import DEADLINE_S, Peer, client_frame, connect

#: The smallest windows that still move: what a peer does not read is soon refused.
SMALL_BUFFER_BYTES = 4096


class StalledPeer(Peer):
    """Never reads: after some kilobytes its window is shut for good."""

    @classmethod
    async def connect(cls, port: int) -> StalledPeer:
        """Connect to a port of 127.0.0.1."""
        peer = await connect(port, receive_buffer_bytes=SMALL_BUFFER_BYTES)
        return cls(peer.stream)


class DribblingPeer(Peer):
    """Reads one byte at a time, each only when it is asked for the next one."""

    @classmethod
    async def connect(cls, port: int) -> DribblingPeer:
        """Connect to a port of 127.0.0.1."""
        peer = await connect(port, receive_buffer_bytes=SMALL_BUFFER_BYTES)
        return cls(peer.stream)

    async def read_byte(self) -> bytes:
        """The next byte; empty at the end."""
        with trio.fail_after(DEADLINE_S):
            return bytes(await self.stream.receive_some(1))


class _FilterInstruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jump_true", ctypes.c_ubyte),
        ("jump_false", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


_SO_ATTACH_FILTER = 26
_BPF_RETURN_CONSTANT = 0x06


class VanishedPeer(Peer):
    """Is there until it vanishes: then nothing reaches it and nothing comes from it, no FIN,
    no RST, no acknowledgement, as when a cable is cut.

    A filter on its own socket, which drops what arrives before TCP sees it, makes it so:
    neither rights nor a network of its own are needed.
    """

    @classmethod
    async def connect(cls, port: int) -> VanishedPeer:
        """Connect to a port of 127.0.0.1."""
        return cls((await connect(port)).stream)

    def vanish(self) -> None:
        """From now on every segment to it is dropped. Nothing more may be asked of it."""
        drop_all = _FilterInstruction(_BPF_RETURN_CONSTANT, 0, 0, 0)
        program = _FilterProgram(1, ctypes.addressof(drop_all))
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))


class RudePeer(Peer):
    """Sends what no client sends; the same garbage for the same seed."""

    @classmethod
    async def connect(cls, port: int) -> RudePeer:
        """Connect to a port of 127.0.0.1."""
        return cls((await connect(port)).stream)

    @staticmethod
    def garbage(seed: int, size: int = 4096) -> bytes:
        """Bytes without any sense."""
        return random.Random(seed).randbytes(size)

    @staticmethod
    def mangled(data: bytes, seed: int) -> bytes:
        """`data` with one byte changed, lost, or doubled."""
        rng = random.Random(seed)
        at = rng.randrange(len(data))
        middle = rng.choice((rng.randbytes(1), b"", data[at : at + 1] * 2))
        return data[:at] + middle + data[at + 1 :]


class PumpingPeer:
    """Sends the same bytes for ever, from a thread of its own, as fast as they are taken.

    `head` goes first; where it asks for a WebSocket, the rest waits for the answer.
    """

    def __init__(self, port: int, head: bytes, data: bytes) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)
        self._head = head
        self._data = data
        self.has_ended = trio.Event()

    def _pump(self) -> None:
        try:
            self._sock.sendall(self._head)
            if b"Upgrade: websocket" in self._head:
                self._sock.recv(4096)
            while True:
                self._sock.sendall(self._data)
        except OSError:
            pass  # it was cut, or closed from our side

    async def pump(self) -> None:
        """Send until it is cut."""
        await trio.to_thread.run_sync(self._pump, abandon_on_cancel=True)
        self.has_ended.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._sock.close()


def pong_hail() -> bytes:
    """Frames that a server may neither answer nor refuse: RFC 6455 §5.5.3."""
    return client_frame(0xA) * 10_000
