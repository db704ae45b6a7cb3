"""The socket under paho: made by Trio, read in large pieces.

paho makes its own socket and blocks while it does, and reads it in three or more
system calls for each packet. It has no public door for either, so `PahoClient`
overrides the methods that make the socket; `tests/mqtt/test_transport.py` fails when
a new paho renames them.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
import trio

from tracker.mqtt.options import SocketOption
from tracker.mqtt.packets import PacketBuffer

# One read takes at most this much: some 300 messages of a tracker, one batch.
READ_BYTES = 64 * 1024


class SocketReader:
    """Reads a non-blocking socket in large pieces, into `packets`. Hot path: S2a and S6b.

    `inner` is what to read, `connection` the socket beneath it.
    """

    __slots__ = ("_connection", "_is_tcp", "_pending", "has_ended", "inner", "outcome", "packets")

    def __init__(self, inner: Any, connection: socket.socket) -> None:
        self.packets = PacketBuffer()
        self.inner = inner
        self._connection = connection
        self._is_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
        self._pending: Callable[[], int] | None = getattr(inner, "pending", None)
        #: Why the last read brought nothing, until paho has heard of it.
        self.outcome: Exception | None = None
        self.has_ended = False

    def fill(self) -> bool:
        """Read once, and say whether bytes came; why none did, `outcome` or `has_ended` say."""
        try:
            data = self.inner.recv(READ_BYTES)
        except Exception as error:
            self.outcome = error
            return False
        if not data:
            self.has_ended = True
            return False
        if self._is_tcp:
            # mosquitto leaves Nagle's algorithm on, so it holds what it has for us until we
            # acknowledge what we got, and the kernel would put that off for 40 ms. The
            # option does not last: it is set anew with each read.
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.packets.feed(data)
        return True

    def has_decrypted(self) -> bool:
        """Say whether bytes wait that no poll will tell of."""
        return self._pending is not None and self._pending() > 0


class BufferedSocket:
    """The socket of a `SocketReader`, in the shape that paho expects.

    paho reads what the reader has for it, and nothing else; all else is the socket's.
    """

    def __init__(self, reader: SocketReader) -> None:
        self._reader = reader
        self._inner = reader.inner

    def recv(self, count: int) -> bytes:
        """Return up to `count` bytes for paho, `b""` at the end.

        Raises: BlockingIOError when there are none; what the socket raised.
        """
        reader = self._reader
        if reader.packets.has_more_for_paho():
            return reader.packets.read(count)
        if reader.has_ended:
            return b""
        if reader.outcome is not None:
            error, reader.outcome = reader.outcome, None
            raise error
        raise BlockingIOError

    def send(self, data: bytes | bytearray) -> int:
        """Send what the kernel takes, and return how much that was.

        Raises: BlockingIOError when the same data must be offered again.
        """
        sent: int = self._inner.send(data)
        if sent == 0 and data:
            # So says paho's WebSocket when it could send a frame only in part; paho itself
            # then forgets the packet, and the connection is out of step.
            raise BlockingIOError
        return sent

    def close(self) -> None:
        """Close the socket."""
        self._inner.close()

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        fd: int = self._inner.fileno()
        return fd

    def setblocking(self, flag: bool) -> None:
        """Say whether calls wait."""
        self._inner.setblocking(flag)

    def __getattr__(self, name: str) -> Any:
        # Users of aiomqtt reach through `client._client.socket()` for getpeername and the like.
        return getattr(self._inner, name)


class PahoClient(paho.Client):
    """paho's client on a socket that was connected for it."""

    # Ours until paho has made of it what it wants; closed by `close_socket` if it cannot.
    connected_socket: socket.socket | None = None

    reader: SocketReader | None = None

    # The thread whose connection it is: one that was stuck may outlive its own.
    owner: object = None
    has_message_filters = False

    def message_callback_add(self, sub: str, callback: Any) -> None:
        """Do as paho does, and note that messages are to go through it."""
        self.has_message_filters = True
        super().message_callback_add(sub, callback)

    def is_watched(self, on_message: object) -> bool:
        """Say whether somebody wants to see, of paho, every message, besides `on_message`."""
        return (
            self.has_message_filters
            or self.on_message != on_message
            or self.on_log is not None
            or (self.logger is not None and self.logger.isEnabledFor(logging.DEBUG))
        )

    def close_socket(self) -> None:
        """Close whatever socket there is, without a goodbye, and count as disconnected."""
        sock, self.connected_socket = self.connected_socket, None
        if sock is not None:
            sock.close()
        self._sock_close()
        self.reader = None
        # Without a socket this sends nothing; it ends the state in which paho refuses
        # to have its settings changed.
        self.disconnect()

    def _create_socket(self) -> Any:
        inner: Any = super()._create_socket()
        connection, self.connected_socket = self.connected_socket, None
        assert connection is not None
        self.reader = SocketReader(inner, connection)
        return BufferedSocket(self.reader)

    def _create_socket_connection(self) -> socket.socket:
        if self.connected_socket is None:
            self.connected_socket = super()._create_socket_connection()
        self.connected_socket.settimeout(self.connect_timeout)
        return self.connected_socket

    def _create_unix_socket_connection(self) -> socket.socket:
        if self.connected_socket is None:
            self.connected_socket = super()._create_unix_socket_connection()
        return self.connected_socket

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        # paho's own leaves the socket open when the handshake fails.
        assert self._ssl_context is not None
        sock = self._ssl_context.wrap_socket(
            tcp_sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        self.connected_socket = sock
        sock.settimeout(self.connect_timeout)
        sock.do_handshake()
        return sock


async def open_socket(
    *,
    hostname: str,
    port: int,
    unix: bool,
    bind_address: str,
    bind_port: int,
    options: tuple[SocketOption, ...],
) -> socket.socket:
    """Connect to a broker and return the plain, still silent socket.

    Raises: OSError, the first one met, when there is no way to it.
    Cancellation: leaves no socket behind. A name lookup goes on in Trio's worker thread
    until the resolver gives up, and its result is dropped.
    """
    if unix:
        stream = await trio.open_unix_socket(hostname)
    elif bind_port:
        stream = await _open_bound(hostname, port, bind_address, bind_port)
    else:
        try:
            stream = await trio.open_tcp_stream(hostname, port, local_address=bind_address or None)
        except OSError as error:
            raise _first_cause(error) from error
    sock = socket.socket(fileno=stream.socket.detach())
    try:
        for option in options:
            sock.setsockopt(*option)
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_bound(
    hostname: str, port: int, bind_address: str, bind_port: int
) -> trio.SocketStream:
    # One local port can serve one attempt at a time, so the addresses are tried in turn.
    failure: OSError | None = None
    for family, kind, proto, _, address in await trio.socket.getaddrinfo(
        hostname, port, type=socket.SOCK_STREAM
    ):
        sock = trio.socket.socket(family, kind, proto)
        try:
            await sock.bind((bind_address, bind_port))
            await sock.connect(address)
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
        else:
            return trio.SocketStream(sock)
    raise failure or OSError(f"no address found for {hostname}")


def _first_cause(error: OSError) -> OSError:
    """Return the first failed attempt beneath Trio's "all attempts to connect failed"."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause if isinstance(cause, OSError) else error
