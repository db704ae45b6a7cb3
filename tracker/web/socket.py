"""The stream as a WebSocket (RFC 6455, and RFC 8441 over HTTP/2)."""

from __future__ import annotations

import trio
from quart import websocket

from tracker.domain import event, wire
from tracker.domain.options import StreamOptions
from tracker.domain.outbox import DOOR_EXTENSION, Outbox
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import Stream
from tracker.domain.transport import WEBSOCKET, WEBSOCKET_LINES, Transport
from tracker.web.asgi_outbox import AsgiOutbox
from tracker.web.last_words import close_if_draining, send_last_words
from tracker.web.session import CLOSES, Conversation, client_of, hand_over, open_client_stream
from tracker.web.view import GatewayView

#: PROTOCOL B5.
_BAD_PARAMETERS = 1008


async def refuse_websocket(message: str) -> None:
    """Say what is wrong with the accepted WebSocket's parameters, and close it."""
    await websocket.send(event.error(message).text().decode())
    await websocket.close(_BAD_PARAMETERS)


async def serve_websocket(
    device_ids: tuple[str, ...], options: StreamOptions, gateway: GatewayView
) -> None:
    """Serve the accepted WebSocket: hand it over, or serve it until it is to be closed.

    Cancellation: the stream has left the hub when it is raised; nothing is sent.
    """

    def open_stream(outbox: Outbox, transport: Transport) -> Stream:
        client = client_of(websocket.remote_addr, websocket.headers.get("User-Agent"))
        return open_client_stream(gateway, device_ids, options, outbox, transport, client)

    extension = websocket.scope["extensions"].get(DOOR_EXTENSION)
    if extension is not None:
        door = extension["door"]
        hand_over(gateway, open_stream(door.outbox, WEBSOCKET), door, _close_frame)
        return
    outbox = AsgiOutbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_lines, outbox)
        with open_stream(outbox, WEBSOCKET_LINES) as stream:
            reason = await _listen(stream, gateway)
        outbox.finish()
    await websocket.close(CLOSES[reason][0])


def _close_frame(reason: CloseReason) -> bytes:
    return wire.close_frame(CLOSES[reason][0])


async def _send_lines(outbox: AsgiOutbox) -> None:
    try:
        while (lines := await outbox.next_write()) is not None:
            for line in lines[:-1].split(b"\n"):
                await websocket.send(line.decode())
    except trio.TooSlowError:  # our own server's word for a client that takes nothing
        outbox.stalled()


async def _listen(stream: Stream, gateway: GatewayView) -> CloseReason:
    """Hear what the client says, until the stream is to be closed; say why.

    A reader beside the writer, always: the notice of a disconnect stands behind what the
    client sent before it.
    """
    conversation = Conversation(gateway, stream)
    with trio.CancelScope() as listening:
        stream.on_close = listening.cancel
        stream.flush()
        close_if_draining(stream, gateway)
        while True:
            conversation.hear(await websocket.receive())
            while stream.is_congested:
                await stream.outbox.wait_writable()
    stream.finish()
    await send_last_words(stream)
    return stream.close_reason or CloseReason.CLIENT
