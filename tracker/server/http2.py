"""What a stream of an HTTP/2 connection needs that Hypercorn does not give it.

On HTTP/2, frames are Hypercorn's: the app sends through ASGI. The holes closed here:
- A window that stays shut: Hypercorn keeps what it cannot send, without bound, or holds the
  send for ever. Each send waits until its bytes have left, and the deadline restarts with
  each that does; past it the stream ends, and the others go on.
- A WebSocket that inflates, or keeps, without bound, or goes on behind a 1009; one whose
  close leaves its stream half open.
- Request bodies, and what a client still sends on a stream that has ended (the answer to our
  Close frame, the rest of a body): it would end the connection with all its streams.
- What a client sends to an app that has returned: it would stop the reader for good.
- A frame that announces 16 MiB: h2 measures it when it is complete.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import EndData, Event
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
    WebsocketDisconnectEvent,
)
from wsproto.events import Message

#: RFC 6455 §7.4.1.
_MESSAGE_TOO_BIG = 1009
#: How long the last frames of a stream may take.
_LAST_S = 2.0
#: RFC 9113 §3.4, §4.1.
_PREFACE_BYTES = 24
_FRAME_HEAD_BYTES = 9

Send = Callable[[ASGISendEvent | None], Awaitable[None]]
Put = Callable[[ASGIReceiveEvent], Awaitable[None]]


class Http2Tasks(TaskGroup):
    """Hypercorn's task group, which guards each stream. `stall_s`: see the module."""

    def __init__(self, stall_s: float) -> None:
        super().__init__()
        self._stall_s = stall_s

    async def spawn_app(self, app: AppWrapper, config: Config, scope: Scope, send: Send) -> Put:
        """Run `app` for a new stream, which is the owner of `send`, a bound method."""
        stream = send.__self__  # type: ignore[attr-defined]  # a contract test names it
        guarded = _GuardedStream(app, stream, self._stall_s)
        put = await super().spawn_app(guarded.run, config, scope, guarded.send)
        guarded.open(put)
        if isinstance(stream, WSStream):
            stream.handshake.extensions = None  # no deflate: Hypercorn inflates unbounded
            stream.buffer = _BoundedBuffer(
                config.websocket_max_message_size, lambda: self.spawn(guarded.leave)
            )
        return guarded.put


class _GuardedStream:
    """One stream of Hypercorn's, and the app that serves it."""

    def __init__(self, app: AppWrapper, stream: HTTPStream | WSStream, stall_s: float) -> None:
        self._app = app
        self._stream = stream
        self._stall_s = stall_s
        self._scope = trio.CancelScope()
        self._put: Put
        self._putting: set[trio.CancelScope] = set()
        self._is_stalled = False
        self._has_ended = False

    def open(self, put: Put) -> None:
        """Take what tells the app of its client."""
        self._put = put

    async def run(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        """Run the app until it returns, or until its stalled client is given up."""
        try:
            with self._scope:
                await self._app(scope, receive, send, sync_spawn, call_soon)
        except* trio.TooSlowError:
            if not self._is_stalled:
                raise

    async def send(self, event: ASGISendEvent | None) -> None:
        """Send an event of the app; None when it has returned.

        Raises: trio.TooSlowError when the client is stalled, the first time.
        Cancellation: `event` may have been sent.
        """
        if event is None:
            await self._end()
            return
        if self._is_stalled:
            self._scope.cancel()
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._stall_s) as sending:
            await self._stream.app_send(event)
        # By then the bytes of a message are in Hypercorn's buffer; all else stays undone.
        goes_on = event["type"] == "websocket.send" or event.get("more_body")
        if (sending.cancelled_caught and not goes_on) or not await self._wait_left():
            self._is_stalled = True
            raise trio.TooSlowError

    @property
    def _protocol(self) -> H2Protocol:
        protocol: H2Protocol = self._stream.send.__self__  # type: ignore[attr-defined]  # as above
        return protocol

    async def _wait_left(self) -> bool:
        """Wait until nothing is buffered; False when for too long no byte has left."""
        buffered = self._protocol.stream_buffers.get(self._stream.stream_id)
        while buffered is not None and (before := len(buffered.buffer)):
            with trio.move_on_after(self._stall_s):
                await buffered.drain()
            if len(buffered.buffer) >= before:
                return False
        return True

    async def _end(self) -> None:
        self._has_ended = True
        for scope in self._putting:
            scope.cancel()
        with trio.move_on_after(_LAST_S):
            await self._stream.app_send(None)
            if isinstance(self._stream, WSStream):
                # Behind the client's Close frame, or a breach, Hypercorn leaves it open.
                await self._stream.send(EndData(stream_id=self._stream.stream_id))
        # The app may have been cancelled while Hypercorn was about to say it.
        await self._protocol.send(Updated(idle=self._protocol.idle))

    async def put(self, event: ASGIReceiveEvent) -> None:
        """Tell the app of its client, as long as it listens."""
        if event["type"] == "http.request" and event["body"]:
            return  # no route takes a body: it is read and forgotten
        if self._has_ended:
            return
        with trio.CancelScope() as scope:
            self._putting.add(scope)
            try:
                await self._put(event)
            finally:
                self._putting.discard(scope)

    async def leave(self) -> None:
        """Tell the app that its client is gone: Hypercorn has said the 1009, and reads on."""
        event: WebsocketDisconnectEvent = {
            "type": "websocket.disconnect",
            "code": _MESSAGE_TOO_BIG,
        }
        await self.put(event)


class _BoundedBuffer(WebsocketBuffer):
    """Keeps nothing of a message that is too large, however long it goes on.

    `on_too_large`: called once.
    """

    def __init__(self, max_length: int, on_too_large: Callable[[], object]) -> None:
        super().__init__(max_length)
        self._on_too_large: Callable[[], object] | None = on_too_large

    def extend(self, event: Message[Any]) -> None:
        try:
            super().extend(event)
        except FrameTooLargeError:
            self.value = None
            if self._on_too_large is not None:
                self._on_too_large()
                self._on_too_large = None
            raise


class _EndedStream:
    """Stands for a stream that has ended: what comes for it is forgotten."""

    async def handle(self, event: Event) -> None:
        """Forget it."""


class _Streams(dict[int, Any]):
    """Hypercorn's streams by their number, where it looks up ended ones too."""

    def __missing__(self, stream_id: int) -> _EndedStream:
        return _ENDED


_ENDED = _EndedStream()


class Http2Inbox:
    """Takes the bytes of an HTTP/2 client. Before the first one is handled.

    `frame_limit_bytes`: the largest frame that is taken.
    """

    def __init__(self, protocol: ProtocolWrapper, *, frame_limit_bytes: int) -> None:
        assert isinstance(protocol.protocol, H2Protocol)
        protocol.protocol.streams = _Streams()
        self._protocol = protocol
        self._frame_limit_bytes = frame_limit_bytes
        self._head = bytearray()
        self._skip_bytes = _PREFACE_BYTES

    async def handle(self, data: bytes) -> None:
        """Pass `data` on.

        Raises: ValueError when a frame is too large.
        Cancellation: some of it may have been handled.
        """
        self.measure(data)
        await self._protocol.handle(RawData(data))

    def let_go(self) -> None:
        """Nothing refers back but what Hypercorn frees itself."""

    def measure(self, data: bytes) -> None:
        """Read the length of every frame that begins in `data`. Raises: see `handle`."""
        at = 0
        while at < len(data):
            if self._skip_bytes:
                step = min(self._skip_bytes, len(data) - at)
                self._skip_bytes -= step
                at += step
                continue
            step = _FRAME_HEAD_BYTES - len(self._head)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == _FRAME_HEAD_BYTES:
                size = int.from_bytes(self._head[:3], "big")
                if size > self._frame_limit_bytes:
                    raise ValueError(
                        f"an HTTP/2 frame of {size} bytes, expected at most"
                        f" {self._frame_limit_bytes}"
                    )
                self._skip_bytes = size
                self._head.clear()
