"""The stream as Server-Sent Events (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from tracker.domain import wire
from tracker.domain.options import StreamOptions
from tracker.domain.outbox import DOOR_EXTENSION, Door, Outbox
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import Client, Stream
from tracker.domain.transport import SSE_BARE, SSE_CHUNKED, Transport
from tracker.web.asgi_outbox import AsgiOutbox
from tracker.web.last_words import close_if_draining
from tracker.web.session import client_of, finish, hand_over, open_client_stream
from tracker.web.view import GatewayView

_HEADERS = {
    "Content-Type": "text/event-stream",
    # no-transform: a proxy that compresses also buffers.
    "Cache-Control": "no-cache, no-transform",
    # Without it nginx buffers, and with gzip delivers nothing.
    "X-Accel-Buffering": "no",
}


def sse_response(
    device_ids: tuple[str, ...], options: StreamOptions, gateway: GatewayView
) -> Response:
    """The answer to the current request: a stream that ends when the gateway says so."""
    if request.method == "HEAD":
        response = Response(b"", headers=_HEADERS)
        # RFC 9110 §8.6: it would tell the length of what GET sends, and that has none.
        del response.headers["Content-Length"]
        return response
    client = client_of(request.remote_addr, request.headers.get("User-Agent"))
    opening = _Opening(gateway, device_ids, options, client)
    extension = request.scope["extensions"].get(DOOR_EXTENSION)
    body: ResponseBody
    if extension is None:
        body = _AsgiBody(opening)
    else:
        # HTTP/1.0 knows no chunks: the end of the stream is the end of the connection.
        is_http10 = request.scope["http_version"] == "1.0"
        body = _HandedOverBody(opening, extension["door"], is_http10=is_http10)
    response = Response(body, headers=_HEADERS)
    response.timeout = None  # Quart would end it after RESPONSE_TIMEOUT
    return response


@dataclass(frozen=True, slots=True)
class _Opening:
    """What a stream is opened with, once the headers have left."""

    gateway: GatewayView
    device_ids: tuple[str, ...]
    options: StreamOptions
    client: Client

    def open(self, outbox: Outbox, transport: Transport) -> Stream:
        return open_client_stream(
            self.gateway, self.device_ids, self.options, outbox, transport, self.client
        )


class _HandedOverBody(ResponseBody):
    """Hands the connection over once the headers have left, and yields nothing."""

    def __init__(self, opening: _Opening, door: Door, *, is_http10: bool) -> None:
        self._opening = opening
        self._door = door
        self._transport = SSE_BARE if is_http10 else SSE_CHUNKED
        self._last = b"" if is_http10 else wire.LAST_CHUNK

    async def __aenter__(self) -> _HandedOverBody:
        stream = self._opening.open(self._door.outbox, self._transport)
        hand_over(self._opening.gateway, stream, self._door, self._last_bytes)
        return self

    def _last_bytes(self, _: CloseReason) -> bytes:
        return self._last

    async def __aexit__(self, *exc_info: object) -> None:
        """Nothing to do: the stream is the connection's now."""

    def __aiter__(self) -> _HandedOverBody:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


class _AsgiBody(ResponseBody):
    """Yields the events for the server to send; its lifetime is the stream's.

    A class, not a generator: leaving it is synchronous, so a response that is cancelled
    has left the hub before its task is gone.
    """

    _stream: Stream

    def __init__(self, opening: _Opening) -> None:
        self._opening = opening
        self._outbox = AsgiOutbox()

    async def __aenter__(self) -> _AsgiBody:
        self._stream = self._opening.open(self._outbox, SSE_BARE)
        self._stream.on_close = self._finish
        self._stream.flush()
        close_if_draining(self._stream, self._opening.gateway)
        return self

    def _finish(self) -> None:
        finish(self._stream, self._stream.close_reason or CloseReason.CLIENT)
        self._outbox.finish()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(exc, trio.TooSlowError):
            self._outbox.stalled()  # our own server's word for a client that takes nothing
        self._stream.leave()

    def __aiter__(self) -> _AsgiBody:
        return self

    async def __anext__(self) -> bytes:
        data = await self._outbox.next_write()
        if data is None:
            raise StopAsyncIteration
        return data
