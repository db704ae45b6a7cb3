"""The listening sockets, and a byte stream over an accepted one for TLS."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import termios
from collections.abc import Iterable

import trio
from hypercorn.config import Config

RECEIVE_BYTES = 64 * 1024

#: Where `struct tcp_info` has its `tcpi_bytes_acked`: linux/tcp.h, since Linux 4.1.
_BYTES_ACKED_AT = 120

#: `accept` may fail with these while the listener is fine: accept(2), "Error handling".
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class BindError(OSError):
    """An address that cannot be bound; the text names it."""


def open_listeners(config: Config) -> tuple[list[socket.socket], list[socket.socket]]:
    """Bind and listen. Returns (TLS listeners, plain listeners).

    Raises: BindError.
    """
    listeners: list[socket.socket] = []
    try:
        sockets = config.create_sockets()
        listeners += (*sockets.secure_sockets, *sockets.insecure_sockets)
        for listener in listeners:
            _tune(listener)
            # With SO_REUSEADDR two may bind to an address; the second to listen fails.
            listener.listen(config.backlog)
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise BindError(
            f"cannot listen on {', '.join(config.bind)}: {error.strerror or error}"
        ) from error
    return sockets.secure_sockets, sockets.insecure_sockets


def _tune(listener: socket.socket) -> None:
    # Set on the listener: `accept` inherits them, which saves system calls per connect.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if not is_tcp(listener):
        return
    tcp = socket.IPPROTO_TCP
    listener.setsockopt(tcp, socket.TCP_NODELAY, 1)
    # A peer that vanished while it was owed nothing is found within about 45 s.
    listener.setsockopt(tcp, socket.TCP_KEEPIDLE, 30)
    listener.setsockopt(tcp, socket.TCP_KEEPINTVL, 5)
    listener.setsockopt(tcp, socket.TCP_KEEPCNT, 3)
    # A peer that reads nothing holds 173 KB in the kernel with it, 4.3 MB without.
    listener.setsockopt(tcp, socket.TCP_NOTSENT_LOWAT, 16 * 1024)


def is_tcp(sock: socket.socket) -> bool:
    """Whether it is a TCP socket, not one of this machine's own."""
    return sock.family in (socket.AF_INET, socket.AF_INET6)


def urls_of(listeners: Iterable[socket.socket], scheme: str) -> list[str]:
    """`http://127.0.0.1:8000` for each listener, with the port that it really has."""
    urls = []
    for listener in listeners:
        name = listener.getsockname()
        if listener.family == socket.AF_INET6:
            urls.append(f"{scheme}://[{name[0]}]:{name[1]}")
        elif listener.family == socket.AF_INET:
            urls.append(f"{scheme}://{name[0]}:{name[1]}")
        else:
            urls.append(f"{scheme}+unix:{name}")
    return urls


async def accept(listener: socket.socket) -> socket.socket:
    """The next connection, non-blocking.

    Raises: OSError with an errno of OUT_OF_RESOURCES.
    Cancellation: atomic, a cancelled call accepts nothing.
    """
    while True:
        try:
            connected, _ = listener.accept()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(listener)
        except OSError as error:
            if error.errno in OUT_OF_RESOURCES:
                raise
            # The peer left before it was accepted: take the next one.
        else:
            connected.setblocking(False)
            return connected


async def receive(sock: socket.socket) -> bytes:
    """What has arrived; empty when the peer has finished or is gone.

    Always a checkpoint, so that a peer who sends without end starves nobody.

    Raises: TimeoutError when the kernel gave the peer up (keepalive, tcp(7)).
    Cancellation: atomic, a cancelled call takes nothing.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    has_waited = False
    while True:
        try:
            data = sock.recv(RECEIVE_BYTES)
            break
        except BlockingIOError:
            pass  # wait below: an exception in flight would be kept for as long
        except TimeoutError:
            raise
        except OSError:
            return b""
        try:
            await trio.lowlevel.wait_readable(sock)
        except trio.ClosedResourceError:
            return b""
        has_waited = True
    if not has_waited:
        await trio.lowlevel.cancel_shielded_checkpoint()
    return data


async def wait_progress(sock: socket.socket, stall_s: float) -> bool:
    """Wait until the kernel takes bytes again; False when the peer is stalled.

    Stalled: for `stall_s` seconds it acknowledged not a byte. A peer that dribbles moves
    what is unacknowledged long before its socket counts as writable again.
    Cancellation: atomic, nothing changes.
    """
    before = _owed_bytes(sock)
    with trio.move_on_after(stall_s) as waiting:
        await trio.lowlevel.wait_writable(sock)
    return not waiting.cancelled_caught or _owed_bytes(sock) < before


def acknowledged_bytes(sock: socket.socket) -> int | None:
    """How many bytes a TCP peer has acknowledged, ever; None while it is owed nothing.

    None, always, for a peer on this machine's own sockets: it does not vanish without a word.
    """
    if not _owed_bytes(sock) or not is_tcp(sock):
        return None
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
    (acknowledged,) = struct.unpack_from("Q", info, _BYTES_ACKED_AT)
    return int(acknowledged)


def _owed_bytes(sock: socket.socket) -> int:
    """What the send queue holds: tcp(7), SIOCOUTQ (the same number as TIOCOUTQ)."""
    (owed,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0" * 4))
    return int(owed)


def end_soon(sock: socket.socket, within_s: float) -> None:
    """Let the kernel keep what a closed socket has unsent no longer than that."""
    if is_tcp(sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(within_s * 1000))


class SocketStream(trio.abc.Stream):
    """An accepted socket as a Trio stream, for `trio.SSLStream` to stand on.

    It does not own the socket: closing it closes nothing. `stall_s`: see `wait_progress`.
    """

    def __init__(self, sock: socket.socket, *, stall_s: float) -> None:
        self._sock = sock
        self._stall_s = stall_s
        #: Whether the kernel has refused bytes that wait here.
        self.refusing = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`.

        Raises: trio.TooSlowError when the peer is stalled; trio.BrokenResourceError.
        Cancellation: some of it may have been sent.
        """
        rest = memoryview(data)
        await trio.lowlevel.checkpoint()
        try:
            while rest:
                try:
                    sent = self._sock.send(rest)
                except BlockingIOError:
                    sent = 0
                rest = rest[sent:]
                if not sent:
                    self.refusing = True
                    if not await wait_progress(self._sock, self._stall_s):
                        raise trio.TooSlowError
        except TimeoutError as error:
            raise trio.TooSlowError from error  # the kernel gave the peer up
        except OSError as error:
            raise trio.BrokenResourceError from error
        finally:
            self.refusing = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes bytes. Cancellation: atomic."""
        await trio.lowlevel.wait_writable(self._sock)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has arrived. Raises: see `receive`. Cancellation: atomic."""
        return await receive(self._sock)

    async def aclose(self) -> None:
        """Nothing to do: the connection owns the socket. Cancellation: atomic."""
        await trio.lowlevel.checkpoint()
