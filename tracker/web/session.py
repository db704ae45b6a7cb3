"""One client of the stream, as the gateway talks with it, whatever carries the bytes.

Theory of operation: on our own server the handler opens the stream, hands the connection
over and returns; the messages go from the hub to the connection's outbox, and what is
left of the request is a `HandedOverSession`. It ends in one of two ways: the connection
ends, and the server lets it leave; or the gateway closes the stream, and what waits is
sent before the last bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from tracker.domain import event
from tracker.domain.options import StreamOptions
from tracker.domain.outbox import Door, Outbox
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import Client, Stream
from tracker.domain.transport import Transport
from tracker.web.last_words import close_if_draining, send_last_words
from tracker.web.operations import perform
from tracker.web.view import GatewayView

#: It is kept for as long as the stream is, and shown in a table.
_USER_AGENT_LIMIT_CHARS = 200

#: PROTOCOL B5: (code, what it means).
CLOSES = {
    CloseReason.CLIENT: (1000, "closed"),
    CloseReason.STALLED: (1001, "nothing was read for too long"),
    CloseReason.SLOW: (4408, "too slow: messages had to be dropped"),
    CloseReason.SHUTDOWN: (1012, "service restart"),
    CloseReason.FLOOD: (1008, "too many messages from the client"),
    CloseReason.ERROR: (1011, "internal error"),
}


def client_of(address: str | None, user_agent: str | None) -> Client:
    """Who has just asked for a stream, as far as it is worth keeping."""
    shown = (user_agent or "")[:_USER_AGENT_LIMIT_CHARS]
    return Client(address or "", shown, trio.current_time())


def open_client_stream(
    gateway: GatewayView,
    device_ids: tuple[str, ...],
    options: StreamOptions,
    outbox: Outbox,
    transport: Transport,
    client: Client,
) -> Stream:
    """Open the stream that a client asked for; what it begins with waits in its queue."""
    now_ns = time.monotonic_ns()
    stream = gateway.hub.open_stream(device_ids, outbox, transport, options, now_ns=now_ns)
    stream.client = client
    stream.ping_due_s = now_ns / 1e9 + (stream.ping_s or 0.0)
    return stream


class Conversation:
    """What a client says on its WebSocket, and the answers. PROTOCOL B3."""

    __slots__ = ("_allowance", "_gateway", "_stream")

    def __init__(self, gateway: GatewayView, stream: Stream) -> None:
        self._gateway = gateway
        self._stream = stream
        self._allowance = gateway.new_allowance(trio.current_time())

    def hear(self, message: str | bytes) -> None:
        """Carry out an operation and answer it; too many of them close the stream."""
        stream = self._stream
        if stream.close_reason is not None:
            return
        if not self._allowance.take(trio.current_time()):
            stream.close(CloseReason.FLOOD)
        elif isinstance(message, str):
            answer = perform(
                message,
                stream,
                self._gateway.hub,
                limit=self._gateway.stream.max_device_ids,
                now_ns=time.monotonic_ns(),
            )
            if answer is not None:
                stream.answer(answer)


class HandedOverSession:
    """A stream that is left to `door`'s connection.

    `last_bytes`: what ends the stream on the wire, given why it is closed.
    """

    __slots__ = ("_conversation", "_door", "_last_bytes", "_stream")

    def __init__(
        self,
        gateway: GatewayView,
        stream: Stream,
        door: Door,
        last_bytes: Callable[[CloseReason], bytes],
    ) -> None:
        self._stream = stream
        self._door = door
        self._last_bytes = last_bytes
        self._conversation = Conversation(gateway, stream)
        stream.on_close = self._start_closing

    def on_message(self, message: str | bytes) -> None:
        """Hear what the client says."""
        self._conversation.hear(message)

    @property
    def is_congested(self) -> bool:
        """Whether the client should not be read for now."""
        return self._stream.is_congested

    def leave(self) -> None:
        """Leave the hub. Idempotent."""
        self._stream.leave()

    def _start_closing(self) -> None:
        self._door.start_soon(self._close)

    async def _close(self) -> None:
        reason = self._stream.close_reason or CloseReason.CLIENT
        finish(self._stream, reason)
        await send_last_words(self._stream)
        self.leave()
        self._door.end(self._last_bytes(reason))


def hand_over(
    gateway: GatewayView,
    stream: Stream,
    door: Door,
    last_bytes: Callable[[CloseReason], bytes],
) -> None:
    """Leave `stream` to the connection behind `door`, and start it."""
    door.hand_over(HandedOverSession(gateway, stream, door, last_bytes))
    stream.flush()
    close_if_draining(stream, gateway)


def finish(stream: Stream, reason: CloseReason) -> None:
    """Let `stream` take nothing more in, and say on SSE what a close frame says on WebSocket."""
    is_told = stream.transport.name == "sse" and reason is not CloseReason.SHUTDOWN
    stream.finish(event.closed(*CLOSES[reason]) if is_told else None)
