"""A TCP proxy that does to a browser's connections what tunnels and middleboxes do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

_READ_BYTES = 64 * 1024
_HANDSHAKE = b"upgrade: websocket"


class CuttingProxy:
    """Stands before `port` of 127.0.0.1 at `url`; a test changes how it behaves at any time.

    The visit's thread calls its methods by `trio.from_thread.run_sync`.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = ""
        #: Whether a WebSocket handshake ends its connection, unanswered.
        self.refuses_websockets = False
        #: Whether bytes of the server vanish, while the connections stay.
        self.is_silent = False
        #: Every WebSocket handshake and every request of a stream, in their order.
        self.asked: list[str] = []
        self._connections: set[trio.CancelScope] = set()
        self._cut_after_bytes: int | None = None

    def cut(self) -> None:
        """End every connection, now."""
        for scope in self._connections:
            scope.cancel()

    def cut_after(self, size: int) -> None:
        """End the connection that gets the next `size` bytes of the server, behind them.

        What is not a whole frame or event then is cut in its midst.
        """
        self._cut_after_bytes = size

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen until the block ends."""
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_tcp, self._serve, 0, host="127.0.0.1")
            listeners: list[trio.SocketListener] = await nursery.start(serve)
            self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
            yield
            nursery.cancel_scope.cancel()

    async def _serve(self, browser: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._relay(browser)
            except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                pass
            finally:
                self._connections.discard(scope)
                await trio.aclose_forcefully(browser)

    async def _relay(self, browser: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(self._up, browser, server, nursery.cancel_scope)
            await self._down(server, browser)
            nursery.cancel_scope.cancel()

    async def _up(
        self, browser: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        while data := await browser.receive_some(_READ_BYTES):
            is_handshake = _HANDSHAKE in data.lower()
            if is_handshake or data.startswith(b"GET /api/v1/stream?"):
                self.asked.append("websocket" if is_handshake else "sse")
            if is_handshake and self.refuses_websockets:
                break
            await server.send_all(data)
        scope.cancel()

    async def _down(self, server: trio.SocketStream, browser: trio.SocketStream) -> None:
        while data := await server.receive_some(_READ_BYTES):
            if self.is_silent:
                continue
            left = self._cut_after_bytes
            if left is not None:
                self._cut_after_bytes = None if left <= len(data) else left - len(data)
                if left <= len(data):
                    await browser.send_all(data[:left])
                    return
            await browser.send_all(data)
