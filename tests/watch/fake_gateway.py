"""A gateway in memory: scripts that play the server's side of one connection each."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from tracker.watch.address import GatewayAddress

#: What the server does with an accepted WebSocket; returning closes the TCP connection.
Script: TypeAlias = Callable[[WebSocketConnection], Awaitable[None]]


class Raw:
    """A script below WebSocket: answers the handshake with these bytes, then stays or ends."""

    def __init__(self, answer: bytes, *, then_ends: bool = True) -> None:
        self.answer = answer
        self.then_ends = then_ends


class Longest(random.Random):
    """No jitter: always the longest pause."""

    def uniform(self, a: float, b: float) -> float:
        return b


class FakeGateway:
    """Plays one script for each connection, in their order; the last one again and again."""

    def __init__(self, nursery: trio.Nursery, *scripts: Script | Raw | Exception) -> None:
        self._nursery = nursery
        self._scripts = list(scripts)
        #: When each attempt to connect came.
        self.attempts_s: list[float] = []
        #: The request target of each handshake.
        self.targets: list[str] = []
        #: With which code each client said goodbye, None without a goodbye.
        self.goodbyes: list[int | None] = []
        #: The clients' ends of all connections.
        self.clients: list[trio.abc.Stream] = []
        self.make_pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = (
            trio.testing.memory_stream_pair
        )

    async def dial(self, address: GatewayAddress) -> trio.abc.Stream:
        """What `open_stream` takes as `dial`."""
        await trio.lowlevel.checkpoint()
        self.attempts_s.append(trio.current_time())
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        if isinstance(script, Exception):
            raise script
        client, server = self.make_pair()
        self.clients.append(client)
        self._nursery.start_soon(self._serve, server, script)
        return client

    async def _serve(self, stream: trio.abc.Stream, script: Script | Raw) -> None:
        if isinstance(script, Raw):
            await stream.receive_some()
            await stream.send_all(script.answer)
            if not script.then_ends:
                await trio.sleep_forever()
        else:
            await self._play(stream, script)
        await trio.aclose_forcefully(stream)

    async def _play(self, stream: trio.abc.Stream, script: Script) -> None:
        try:
            async with trio.open_nursery() as nursery:
                request = await wrap_server_stream(nursery, stream)
                self.targets.append(request.path)
                websocket = await request.accept()
                await script(websocket)
                closed = websocket.closed
                self.goodbyes.append(None if closed is None else closed.code)
                nursery.cancel_scope.cancel()
        except* ConnectionClosed:
            pass  # the client was faster


def sends(*texts: str, then: Script | None = None) -> Script:
    """A script that sends these, then goes on with `then`, or listens until the client leaves."""

    async def script(websocket: WebSocketConnection) -> None:
        for text in texts:
            await websocket.send_message(text)
        await (then or listens)(websocket)

    return script


def closes(code: int, reason: str | None = None) -> Script:
    """A script that closes."""

    async def script(websocket: WebSocketConnection) -> None:
        await websocket.aclose(code, reason)

    return script


def holds(seconds: float, then: Script) -> Script:
    """A script that is silent for a while."""

    async def script(websocket: WebSocketConnection) -> None:
        await trio.sleep(seconds)
        await then(websocket)

    return script


async def listens(websocket: WebSocketConnection) -> None:
    """A script that is silent until the client leaves."""
    with contextlib.suppress(ConnectionClosed):
        await websocket.get_message()


async def vanishes(websocket: WebSocketConnection) -> None:
    """A script that ends without a close frame."""


def message_text(device_id: str, number: int = 0) -> str:
    """A message as the gateway sends it."""
    return (
        '{"event":"message","data":{"timestamp":"2024-12-11T10:30:00Z","data":'
        f'{{"DEVICE_ID":"{device_id}","N":{number}}}}}}}'
    )
