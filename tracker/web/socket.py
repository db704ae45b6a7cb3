"""The stream as a WebSocket (RFC 6455, and RFC 8441 over HTTP/2)."""

from __future__ import annotations

import trio
from quart import websocket

from tracker.domain import event, wire
from tracker.domain.outbox import DOOR_EXTENSION
from tracker.domain.stream import WEBSOCKET, WEBSOCKET_LINES, CloseReason, Stream
from tracker.web.asgi_outbox import AsgiOutbox
from tracker.web.last_words import close_if_draining, send_last_words
from tracker.web.session import StreamSession
from tracker.web.view import GatewayView

#: PROTOCOL B5.
_BAD_PARAMETERS = 1008
_CLOSE_CODES = {
    CloseReason.CLIENT: 1000,
    CloseReason.STALLED: 1001,
    CloseReason.SHUTDOWN: 1012,
    CloseReason.FLOOD: 1008,
}


async def refuse_websocket(message: str) -> None:
    """Say what is wrong with the accepted WebSocket's parameters, and close it."""
    await websocket.send(event.error(message).text().decode())
    await websocket.close(_BAD_PARAMETERS)


async def serve_websocket(device_ids: tuple[str, ...], gateway: GatewayView) -> None:
    """Serve the accepted WebSocket: hand it over, or serve it until it is to be closed.

    Cancellation: the stream has left the hub when it is raised; nothing is sent.
    """
    extension = websocket.scope["extensions"].get(DOOR_EXTENSION)
    if extension is None:
        reason = await _serve_through_asgi(device_ids, gateway)
        await websocket.close(_CLOSE_CODES[reason])
    else:
        StreamSession(device_ids, gateway, extension["door"], WEBSOCKET, _close_frame)


def _close_frame(reason: CloseReason) -> bytes:
    return wire.close_frame(_CLOSE_CODES[reason])


async def _serve_through_asgi(device_ids: tuple[str, ...], gateway: GatewayView) -> CloseReason:
    outbox = AsgiOutbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_lines, outbox)
        with gateway.hub.open_stream(device_ids, outbox, WEBSOCKET_LINES) as stream:
            reason = await _listen(stream, gateway)
        outbox.finish()
    return reason


async def _send_lines(outbox: AsgiOutbox) -> None:
    try:
        while (lines := await outbox.next_write()) is not None:
            for line in lines[:-1].split(b"\n"):
                await websocket.send(line.decode())
    except trio.TooSlowError:  # our own server's word for a client that takes nothing
        outbox.stalled()


async def _listen(stream: Stream, gateway: GatewayView) -> CloseReason:
    """Read and ignore what the client sends, until the stream is to be closed; say why.

    A reader beside the writer, always: the notice of a disconnect stands behind what the
    client sent before it.
    """
    allowance = gateway.new_allowance(trio.current_time())
    with trio.CancelScope() as listening:
        stream.on_close = listening.cancel
        close_if_draining(stream, gateway)
        while allowance.take(trio.current_time()):
            await websocket.receive()
        stream.close(CloseReason.FLOOD)
    await send_last_words(stream)
    return stream.close_reason or CloseReason.CLIENT
