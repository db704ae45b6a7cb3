"""What a stream of an HTTP/2 connection needs that Hypercorn does not give it.

On HTTP/2, frames are Hypercorn's: the app sends through ASGI. Three holes are closed here:
a send that flow control holds for ever, a WebSocket that inflates or keeps without bound,
and request bodies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from wsproto.events import Message


class Http2Tasks(TaskGroup):
    """Hypercorn's task group, which hardens each stream as its app is started."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        stream = getattr(send, "__self__", None)
        if isinstance(stream, WSStream):
            stream.handshake.extensions = None  # no deflate: Hypercorn inflates unbounded
            stream.buffer = _BoundedBuffer(config.websocket_max_message_size)
        put = await super().spawn_app(app, config, scope, send)

        async def put_without_body(event: ASGIReceiveEvent) -> None:
            if event["type"] == "http.request" and event["body"]:
                return  # no route takes a body: it is read and forgotten
            await put(event)

        return put_without_body


class _BoundedBuffer(WebsocketBuffer):
    """Keeps nothing of a message that is too large, however long it goes on."""

    def extend(self, event: Message[Any]) -> None:
        try:
            super().extend(event)
        except FrameTooLargeError:
            self.value = None
            raise


async def serve_stream(
    app: ASGIFramework,
    scope: Scope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
    stall_s: float,
) -> None:
    """Run the app for one stream; a send that takes longer than `stall_s` ends the stream.

    Cancellation: the app is cancelled.
    """
    with trio.CancelScope() as stream_scope:

        async def send_in_time(event: ASGISendEvent) -> None:
            with trio.move_on_after(stall_s) as sending:
                await send(event)
            if sending.cancelled_caught:
                stream_scope.cancel()
                await trio.lowlevel.checkpoint()

        await app(scope, receive, send_in_time)
