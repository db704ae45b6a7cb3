"""A stream on a connection that was handed over: it lives as long as the connection.

Theory of operation: the handler opens the stream, hands the connection over and returns;
the messages go from the hub to the connection's outbox, and what is left of the request
is this object. It ends in one of two ways: the connection ends, and the server lets it
leave; or the gateway closes the stream, and what waits is sent before the last bytes.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from tracker.domain.outbox import Door
from tracker.domain.stream import CloseReason
from tracker.domain.transport import Transport
from tracker.web.last_words import close_if_draining, send_last_words
from tracker.web.view import GatewayView


class StreamSession:
    """A stream of `device_ids` that is left to `door`'s connection.

    `last_bytes`: what ends the stream on the wire, given why it is closed.
    """

    __slots__ = ("_allowance", "_door", "_last_bytes", "_stream")

    def __init__(
        self,
        device_ids: tuple[str, ...],
        gateway: GatewayView,
        door: Door,
        transport: Transport,
        last_bytes: Callable[[CloseReason], bytes],
    ) -> None:
        self._door = door
        self._last_bytes = last_bytes
        self._allowance = gateway.new_allowance(trio.current_time())
        self._stream = gateway.hub.open_stream(device_ids, door.outbox, transport)
        self._stream.on_close = self._start_closing
        door.hand_over(self)
        close_if_draining(self._stream, gateway)

    def on_message(self, message: str | bytes) -> None:
        """Read and ignore, unless it is too much."""
        if not self._allowance.take(trio.current_time()):
            self._stream.close(CloseReason.FLOOD)

    def leave(self) -> None:
        """Leave the hub. Idempotent."""
        self._stream.leave()

    def _start_closing(self) -> None:
        self._door.start_soon(self._close)

    async def _close(self) -> None:
        await send_last_words(self._stream)
        reason = self._stream.close_reason or CloseReason.CLIENT
        self.leave()
        self._door.end(self._last_bytes(reason))
