"""A small HTTP/1.1 client: one request on one connection, the body as it comes."""

from __future__ import annotations

import ssl
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import h11
import trio

from tracker.watch.address import GatewayAddress
from tracker.watch.dial import open_stream_to
from tracker.watch.errors import StreamError

_READ_BYTES = 64 * 1024
_BODY_LIMIT_BYTES = 1024 * 1024


class HttpError(StreamError):
    """What answered does not speak HTTP, or ended in the midst of it."""


class Response:
    """The head of an answer, and its body to be read. Made by `open_response`."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        connection: h11.Connection,
        stream: trio.abc.Stream,
    ) -> None:
        self.status = status
        #: Names in lower case.
        self.headers = headers
        self._connection = connection
        self._stream = stream
        is_gzip = headers.get("content-encoding", "") == "gzip"
        self._inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if is_gzip else None

    async def receive(self) -> bytes:
        """The next piece of the body, inflated; empty at its end.

        Raises: HttpError when it breaks off. Cancellation: what was received is lost.
        """
        while self._connection.their_state is h11.SEND_BODY:
            event = await _next_event(self._connection, self._stream)
            if isinstance(event, h11.Data):
                data = bytes(event.data)
                try:
                    data = data if self._inflater is None else self._inflater.decompress(data)
                except zlib.error as error:
                    raise HttpError(f"a broken gzip body: {error}") from None
                if data:
                    return data
        return b""

    async def read(self) -> bytes:
        """The whole body; of one that is very long, the beginning."""
        body = b""
        while len(body) < _BODY_LIMIT_BYTES and (data := await self.receive()):
            body += data
        return body


@asynccontextmanager
async def open_response(
    address: GatewayAddress,
    target: str,
    *,
    user_agent: str,
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Response]:
    """GET `target` as `user_agent`; the connection ends with the block.

    Raises: UnreachableError, HttpError. There is no deadline here.
    Cancellation: the connection is cut.
    """
    stream = await open_stream_to(address, ssl_context)
    try:
        yield await _request(stream, address, target, {"User-Agent": user_agent, **headers})
    finally:
        await trio.aclose_forcefully(stream)


async def _request(
    stream: trio.abc.Stream, address: GatewayAddress, target: str, headers: Mapping[str, str]
) -> Response:
    connection = h11.Connection(h11.CLIENT)
    all_headers = [("Host", address.host_header)]
    all_headers += headers.items()
    if address.authorization is not None:
        all_headers.append(("Authorization", address.authorization))
    request = h11.Request(method="GET", target=target, headers=all_headers)
    data = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError as error:
        raise HttpError("the connection was closed without an answer") from error
    while True:
        event = await _next_event(connection, stream)
        if isinstance(event, h11.Response):
            fields = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            return Response(event.status_code, fields, connection, stream)


async def _next_event(connection: h11.Connection, stream: trio.abc.Stream) -> h11.Event:
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise HttpError(f"no valid HTTP: {error}") from None
        if event is h11.NEED_DATA:
            try:
                data = await stream.receive_some(_READ_BYTES)
            except trio.BrokenResourceError:
                data = b""
            if not data and connection.their_state is h11.SEND_RESPONSE:
                raise HttpError("the connection was closed without an answer")
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.ConnectionClosed):
            raise HttpError("the connection was closed without an answer")
        elif isinstance(event, h11.Event):
            return event
