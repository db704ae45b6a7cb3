"""A TCP proxy that cuts what goes through it, at random."""

from __future__ import annotations

import random
import socket

import trio

_COPY_BYTES = 16 * 1024


class CuttingProxy:
    """Leads to the port `target` of 127.0.0.1, which may change; `port` stays.

    Each connection is cut after `cut_s` seconds, anything between the two bounds.
    """

    def __init__(self, target: int, rng: random.Random, cut_s: tuple[float, float]) -> None:
        self.target = target
        self.port = 0
        self.cuts = 0
        #: Whether it cuts.
        self.is_restless = True
        self._cut_s = cut_s
        self._rng = rng

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Cancellation: every connection is cut."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self.target)
        except OSError:
            _reset(client)
            return
        async with server, client, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, client, server, nursery.cancel_scope)
            nursery.start_soon(_copy, server, client, nursery.cancel_scope)
            nursery.start_soon(self._cut, client, nursery.cancel_scope)

    async def _cut(self, client: trio.SocketStream, scope: trio.CancelScope) -> None:
        await trio.sleep(self._rng.uniform(*self._cut_s))
        if not self.is_restless:
            return
        self.cuts += 1
        if self._rng.random() < 0.5:
            _reset(client)
        scope.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Close with a RST: what is on its way is lost."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.socket.close()


async def _copy(
    source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        while data := await source.receive_some(_COPY_BYTES):
            await sink.send_all(data)
        # The peer may have something left to say; ends that are half open are not drilled.
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
