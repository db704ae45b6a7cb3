"""The HTTP server: listeners, one task for each connection, an orderly end.

Our own, over Hypercorn's public parts: its own server leaves no door to what leaves a
connection, and one request can end it.
"""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from hypercorn.utils import wrap_app

from tracker.server.connection import Connection
from tracker.server.sockets import SocketStream, accept, open_listeners, urls_of
from tracker.server.watch import run_watch

log = logging.getLogger("tracker.server")

#: How long to wait for a descriptor when all are in use.
_OUT_OF_RESOURCES_S = 0.1


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """`open`: connections at this moment; `accepted`: since the start; `refused`: how often
    `accept` found no descriptor."""

    open: int
    accepted: int
    refused: int


class Server:
    """Serves an ASGI app on the addresses of `config`.

    `stall_s`: seconds without progress after which a peer that does not read is cut;
    `head_s`: seconds that a request head may take.
    """

    def __init__(
        self, app: ASGIFramework, config: Config, *, stall_s: float, head_s: float
    ) -> None:
        self._app = app
        self._config = config
        self._stall_s = stall_s
        self._head_s = head_s
        self._context = WorkerContext(None)
        self._connections: dict[Connection, None] = {}
        self._emptied = trio.Event()
        self._accepted = 0
        self._refused = 0
        self.urls: tuple[str, ...] = ()

    async def serve(
        self, *, task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Bind, listen, and serve until cancelled; started with the URLs once it listens.

        Raises: BindError; whatever the app's lifespan raises.
        Cancellation: every connection is closed at once; the listeners too.
        """
        secure, plain = open_listeners(self._config)
        try:
            self.urls = (*urls_of(secure, "https"), *urls_of(plain, "http"))
            await self._serve(secure, plain, task_status)
        finally:
            for listener in (*secure, *plain):
                trio.lowlevel.notify_closing(listener)
                listener.close()

    async def _serve(
        self,
        secure: list[socket.socket],
        plain: list[socket.socket],
        task_status: trio.TaskStatus[tuple[str, ...]],
    ) -> None:
        tls_context = self._config.create_ssl_context()
        lifespan = Lifespan(
            wrap_app(self._app, self._config.wsgi_max_body_size, "asgi"), self._config, {}
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            for listener in secure:
                nursery.start_soon(self._accept_all, nursery, listener, tls_context)
            for listener in plain:
                nursery.start_soon(self._accept_all, nursery, listener, None)
            nursery.start_soon(run_watch, self._connections, self._stall_s)
            task_status.started(self.urls)

    async def _accept_all(
        self, nursery: trio.Nursery, listener: socket.socket, tls_context: ssl.SSLContext | None
    ) -> None:
        while True:
            try:
                sock = await accept(listener)
            except OSError as error:
                if not self._refused:
                    log.error("no connection can be accepted: %s", error.strerror)
                self._refused += 1
                await trio.sleep(_OUT_OF_RESOURCES_S)
                continue
            self._accepted += 1
            nursery.start_soon(self._run, sock, tls_context)
            # In a storm of connects, those that are connected already have their turn.
            await trio.lowlevel.checkpoint()

    async def _run(self, sock: socket.socket, tls_context: ssl.SSLContext | None) -> None:
        tls = None
        if tls_context is not None:
            tls = trio.SSLStream(
                SocketStream(sock, stall_s=self._stall_s), tls_context, server_side=True
            )
        connection = Connection(
            sock,
            self._app,
            self._config,
            self._context,
            stall_s=self._stall_s,
            head_s=self._head_s,
            tls=tls,
        )
        self._connections[connection] = None
        try:
            await connection.run()
        finally:
            del self._connections[connection]
            if not self._connections:
                self._emptied.set()
                self._emptied = trio.Event()

    async def wait_empty(self) -> None:
        """Wait until no connection is open. Cancellation: atomic."""
        while self._connections:
            await self._emptied.wait()

    async def stop_keepalive(self) -> None:
        """From now on every connection ends with the answer under way; idle ones end now."""
        await self._context.terminated.set()
        for connection in list(self._connections):
            if connection.is_idle:
                connection.cancel()

    def connection_changes(self) -> int:
        """How many connections came, plus how many went, since the start."""
        return 2 * self._accepted - len(self._connections)

    def statistics(self) -> ServerStatistics:
        """The counters at this moment."""
        return ServerStatistics(len(self._connections), self._accepted, self._refused)
