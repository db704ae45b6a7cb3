"""How a stream ends: what still waits is sent, if the client takes it soon."""

from __future__ import annotations

import trio

from tracker.domain import event
from tracker.domain.reasons import CloseReason
from tracker.domain.stream import Stream
from tracker.web.view import GatewayView

#: How long a closing stream may take to send what still waits in its queue.
_LAST_WORDS_S = 2.0


def close_if_draining(stream: Stream, gateway: GatewayView) -> None:
    """Send a client that comes during a planned stop away at once. PROTOCOL B4."""
    if gateway.is_draining():
        stream.post(event.reconnect(gateway.reconnect_after_ms(), "shutdown"))
        stream.close(CloseReason.SHUTDOWN)


async def send_last_words(stream: Stream) -> None:
    """Wait until the queue is empty, or the client is gone or too slow.

    Cancellation: atomic, nothing changes.
    """
    with trio.move_on_after(_LAST_WORDS_S):
        while len(stream.queue) and await stream.outbox.wait_writable():
            pass
