"""The stream as Server-Sent Events (WHATWG HTML, "Server-sent events")."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import trio
from quart import Response, request
from quart.wrappers.response import ResponseBody

from tracker.domain.outbox import OUTBOX_EXTENSION, Outbox
from tracker.domain.stream import SSE_BARE, SSE_CHUNKED, Stream, Transport
from tracker.web.asgi_outbox import AsgiOutbox
from tracker.web.last_words import close_if_draining, send_last_words
from tracker.web.view import GatewayView

_HEADERS = {
    "Content-Type": "text/event-stream",
    # no-transform: a proxy that compresses also buffers.
    "Cache-Control": "no-cache, no-transform",
    # Without it nginx buffers, and with gzip delivers nothing.
    "X-Accel-Buffering": "no",
}


def sse_response(device_ids: tuple[str, ...], gateway: GatewayView) -> Response:
    """The answer to the current request: a stream that ends when the gateway says so."""
    if request.method == "HEAD":
        return Response(b"", headers=_HEADERS)
    extension = request.scope["extensions"].get(OUTBOX_EXTENSION)
    body: ResponseBody
    if extension is None:
        body = _AsgiBody(device_ids, gateway)
    else:
        # HTTP/1.0 knows no chunks: the end of the stream is the end of the connection.
        is_http10 = request.scope["http_version"] == "1.0"
        transport = SSE_BARE if is_http10 else SSE_CHUNKED
        body = _DirectBody(device_ids, gateway, extension["open"], transport)
    response = Response(body, headers=_HEADERS)
    response.timeout = None  # Quart would end it after RESPONSE_TIMEOUT
    return response


class _Body(ResponseBody):
    """The body of one SSE response: its lifetime is the stream's.

    A class, not a generator: leaving it is synchronous, so a response that is cancelled
    has left the hub before its task is gone.
    """

    _stream: Stream

    def __init__(self, device_ids: tuple[str, ...], gateway: GatewayView) -> None:
        self._device_ids = device_ids
        self._gateway = gateway
        self._exit = ExitStack()

    def _open(self, outbox: Outbox, transport: Transport, on_close: Callable[[], object]) -> None:
        self._stream = self._exit.enter_context(
            self._gateway.hub.open_stream(self._device_ids, outbox, transport)
        )
        self._stream.on_close = on_close
        close_if_draining(self._stream, self._gateway)

    async def __aexit__(self, *exc_info: object) -> None:
        self._exit.close()


class _DirectBody(_Body):
    """Yields nothing: the events go from the hub to the connection's outbox."""

    def __init__(
        self,
        device_ids: tuple[str, ...],
        gateway: GatewayView,
        open_outbox: Callable[[], Outbox],
        transport: Transport,
    ) -> None:
        super().__init__(device_ids, gateway)
        self._open_outbox = open_outbox
        self._transport = transport
        self._closing = trio.Event()

    async def __aenter__(self) -> _DirectBody:
        self._open(self._open_outbox(), self._transport, self._closing.set)
        return self

    def __aiter__(self) -> _DirectBody:
        return self

    async def __anext__(self) -> bytes:
        await self._closing.wait()
        await send_last_words(self._stream)
        raise StopAsyncIteration


class _AsgiBody(_Body):
    """Yields the events for the server to send."""

    def __init__(self, device_ids: tuple[str, ...], gateway: GatewayView) -> None:
        super().__init__(device_ids, gateway)
        self._outbox = AsgiOutbox()

    async def __aenter__(self) -> _AsgiBody:
        self._open(self._outbox, SSE_BARE, self._outbox.finish)
        return self

    def __aiter__(self) -> _AsgiBody:
        return self

    async def __anext__(self) -> bytes:
        data = await self._outbox.next_write()
        if data is None:
            raise StopAsyncIteration
        return data
