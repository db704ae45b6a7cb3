"""The way to a gateway: name, TCP, TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from tracker.watch.address import GatewayAddress
from tracker.watch.errors import UnreachableError

#: Opens the byte stream to an address, or raises UnreachableError.
Dial: TypeAlias = Callable[[GatewayAddress], Awaitable[trio.abc.Stream]]


def make_dial(ssl_context: ssl.SSLContext | None = None) -> Dial:
    """A `Dial` over TCP, with TLS where the address wants it.

    `ssl_context`: by default certificates are verified against the system's authorities.
    """

    async def dial(address: GatewayAddress) -> trio.abc.Stream:
        return await open_stream_to(address, ssl_context)

    return dial


async def open_stream_to(
    address: GatewayAddress, ssl_context: ssl.SSLContext | None = None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect; with TLS the handshake is done.

    Raises: UnreachableError with the failure beneath as its cause.
    Cancellation: leaves no socket behind.
    """
    try:
        plain = await trio.open_tcp_stream(address.host, address.port)
    except OSError as error:
        first = _first_cause(error)
        raise UnreachableError(_explain_tcp(first, address)) from first
    if not address.is_tls:
        return plain
    context = ssl_context or default_ssl_context()
    secure = trio.SSLStream(plain, context, server_hostname=address.host, https_compatible=True)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(plain)
        raise UnreachableError(_explain_tls(error.__cause__, address)) from error.__cause__
    except BaseException:
        await trio.aclose_forcefully(plain)
        raise
    return secure


def default_ssl_context(ca_file: str | None = None) -> ssl.SSLContext:
    """A context that verifies, and offers HTTP/1.1: WebSockets are spoken over it.

    Raises: OSError (ssl.SSLError is one) when `ca_file` cannot be read.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _first_cause(error: OSError) -> OSError:
    """The first failed attempt beneath Trio's "all attempts to connect failed"."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause if isinstance(cause, OSError) else error


def _explain_tcp(cause: OSError, address: GatewayAddress) -> str:
    if isinstance(cause, socket.gaierror):
        return f"unknown host {address.host!r} ({cause.strerror})"
    if isinstance(cause, ConnectionRefusedError):
        return f"connection refused: nothing listens on port {address.port} of {address.host}"
    return f"cannot connect to {address.host_header}: {cause.strerror or cause}"


def _explain_tls(cause: BaseException | None, address: GatewayAddress) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {address.host} is not trusted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS on port {address.port} of {address.host} ({cause.reason or cause})"
    return f"no TLS on port {address.port} of {address.host} (it closed the connection)"
