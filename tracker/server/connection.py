"""One TCP connection: its reader, its outbox, its deadlines, its one close.

Laws:
- The connection owns the only close of its descriptor, and the outbox has forgotten it by
  then.
- Whatever goes wrong here ends here: one log line, this connection closed.
- Hypercorn is given one whole request head at a time; nothing behind it is passed on
  before the answer is done, or before the 101 has left.

Theory of operation: the reader reads for as long as the connection lives, so it sees the
peer leave whatever the app does. What Hypercorn or the app's tasks want on the way goes
through the outbox. Each change of state is made synchronously, in one place.

    HEAD ──whole head──▶ REQUEST ──answered──▶ HEAD
      │                     └─────handed over────────────▶ STREAM
      └──handshake────▶ HANDSHAKE ──101──▶ ACCEPTED ─────▶ WEBSOCKET
    any ──refused, closed, a Close frame left──▶ CLOSING

The app hands the connection over when it has answered the handshake, or sent the headers
of a stream: from then on nothing of the request is kept, no parser, no handler, no task
but the reader. What a WebSocket client sends before that waits here.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from math import inf
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ConnectionState,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from tracker.domain import wire
from tracker.domain.errors import leaves
from tracker.domain.outbox import DOOR_EXTENSION, Session
from tracker.server import request, sockets
from tracker.server.http2 import Http2Inbox, Http2Tasks
from tracker.server.inbox import NO_INBOX, HypercornInbox, Inbox
from tracker.server.outbox import Outbox, TlsOutbox
from tracker.server.tasks import ConnectionTasks, NoTasks
from tracker.server.websocket import WebSocketInbox

log = logging.getLogger("tracker.server")

#: How long a peer may take to read our last bytes and close its side.
_LINGER_S = 2.0
#: How long an answer may still take once the peer has finished sending.
_HALF_CLOSED_S = 5.0
#: How much may stand behind a request that is still being answered.
_HELD_LIMIT_BYTES = 64 * 1024
_SWITCHING_PROTOCOLS = b"HTTP/1.1 101 "


class State(Enum):
    """Where the connection stands; see the module's docstring."""

    HEAD = auto()
    REQUEST = auto()
    HANDSHAKE = auto()
    ACCEPTED = auto()
    WEBSOCKET = auto()
    STREAM = auto()
    HTTP2 = auto()
    CLOSING = auto()


class Connection:
    """One accepted connection, served by `run`."""

    def __init__(
        self,
        sock: socket.socket,
        app: ASGIFramework,
        config: Config,
        context: WorkerContext,
        *,
        stall_s: float,
        head_s: float,
        tls: trio.SSLStream[sockets.SocketStream] | None = None,
    ) -> None:
        self._sock = sock
        self._app = app
        self._config = config
        self._context = context
        self._stall_s = stall_s
        self._head_s = head_s
        self._tls = tls
        self._state = State.HEAD
        self._held = bytearray()
        self._head_begun = True
        self._searched_bytes = 0
        self._is_poked = False
        self._peer_finished = False
        self._answered = trio.Event()
        self._scope = trio.CancelScope()
        self._read_scope = trio.CancelScope()
        self._read_deadline = trio.current_time() + head_s
        #: What the peer had acknowledged when it last made progress, and when that was.
        self._acknowledged: int | None = None
        self._progress_s = 0.0
        self._outbox = self._make_outbox()
        self._session: Session = _NO_SESSION
        self._tasks: TaskGroup = NoTasks()
        self._inbox: Inbox = NO_INBOX

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        is_http2_idle = self._state is State.HTTP2 and self._read_deadline < inf
        return self._state is State.HEAD or is_http2_idle

    def cancel(self) -> None:
        """End the connection now. Idempotent."""
        self._scope.cancel()

    async def run(self) -> None:
        """Serve the connection until it ends. Raises nothing of its own.

        Cancellation: the connection is closed at once.
        """
        try:
            with self._scope:
                try:
                    await self._serve()
                finally:
                    self._tasks = NoTasks()
        except* Exception as group:
            # Law 5: one connection's fault never reaches the supervisor.
            log.warning(
                "connection closed after %s", "; ".join(repr(error) for error in leaves(group))
            )
        finally:
            self._close()

    def watch(self) -> None:
        """Give the peer up when it has taken nothing of what it is owed for `stall_s`.

        Law: the deadline restarts with each byte. TCP only.
        """
        acknowledged = sockets.acknowledged_bytes(self._sock)
        if acknowledged is None or acknowledged != self._acknowledged:
            self._acknowledged = acknowledged
            self._progress_s = trio.current_time()
        elif trio.current_time() - self._progress_s >= self._stall_s:
            self._outbox.stalled()

    def _close(self) -> None:
        self._session.leave()
        self._outbox.close()
        sockets.end_soon(self._sock, self._stall_s)
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        # What is left refers to us: without a cycle it is freed now, and not by the collector.
        self._session = _NO_SESSION
        self._inbox.let_go()
        self._inbox = NO_INBOX

    async def _serve(self) -> None:
        is_http2 = False
        if self._tls is not None:
            if not await self._shake_hands(self._tls):
                return
            self._enter(State.HEAD, self._head_s)
            is_http2 = self._tls.selected_alpn_protocol() == "h2"
        async with (
            Http2Tasks(self._stall_s)
            if is_http2
            else ConnectionTasks(self._is_handed_over) as tasks
        ):
            self._tasks = tasks
            protocol = ProtocolWrapper(
                self._run_app,
                self._config,
                self._context,
                tasks,
                ConnectionState({}),
                self._tls is not None,
                _address(self._sock, socket.socket.getpeername),
                _address(self._sock, socket.socket.getsockname),
                self._on_event,
                "h2" if is_http2 else "http/1.1",
            )
            if is_http2:
                self._enter(State.HTTP2, self._config.keep_alive_timeout)
                self._inbox = Http2Inbox(
                    protocol, frame_limit_bytes=self._config.h2_max_inbound_frame_size
                )
            else:
                self._inbox = HypercornInbox(protocol)
            await protocol.initiate()
            del protocol
            await self._read()
            self.cancel()

    async def _shake_hands(self, tls: trio.SSLStream[sockets.SocketStream]) -> bool:
        with trio.move_on_after(self._config.ssl_handshake_timeout):
            try:
                await tls.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError, TimeoutError):
                return False
            return True
        return False

    def _make_outbox(self) -> Outbox:
        if self._tls is None:
            return Outbox(
                self._sock, stall_s=self._stall_s, spawn=self._spawn, on_broken=self.cancel
            )
        return TlsOutbox(
            self._tls,
            self._tls.transport_stream,
            self._sock,
            stall_s=self._stall_s,
            spawn=self._spawn,
            on_broken=self.cancel,
        )

    def _spawn(self, run: Callable[[], Awaitable[None]]) -> None:
        # While its nursery ends others have a turn, and may ask for one more task: a flush
        # that is refused, a planned stop. There is nothing to run any more, and the fault
        # must not be theirs.
        with contextlib.suppress(RuntimeError):
            self._tasks.spawn(run)

    # The reader

    async def _read(self) -> None:
        while True:
            await self._pass_on()
            if not await self._receive():
                break
        self._peer_finished = True
        # `printf … | nc` closes its side behind the request, and still reads.
        with trio.move_on_after(_HALF_CLOSED_S):
            while self._state is State.REQUEST:
                await self._answered.wait()
                await self._pass_on()

    async def _receive(self) -> bool:
        """Wait for more to be held, or for a change of state; False at the end."""
        self._read_scope = trio.CancelScope(deadline=self._read_deadline)
        self._is_poked = False
        with self._read_scope:
            data = await self._receive_some()
            if self._state is not State.CLOSING:
                self._held += data
            return bool(data)
        if self._is_poked:
            return True
        if self._state is State.HEAD and self._held:
            await self._refuse(request.HEAD_TOO_SLOW)
            return True
        return False

    async def _receive_some(self) -> bytes:
        try:
            if self._tls is None or self._state is State.CLOSING:
                return await sockets.receive(self._sock)
            return bytes(await self._tls.receive_some(sockets.RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        except TimeoutError:
            self._outbox.stalled()
            return b""

    def _poke(self) -> None:
        """Let the reader, and nobody else, pass on what is held: so it stays in order."""
        if self._held:
            self._is_poked = True
            self._read_scope.cancel()

    def _enter(self, state: State, within_s: float = inf) -> None:
        """Change the state; the peer's next bytes must come within `within_s` seconds."""
        self._state = state
        self._read_deadline = trio.current_time() + within_s
        self._read_scope.deadline = self._read_deadline

    async def _pass_on(self) -> None:
        """Pass on what is held, as far as the state allows."""
        while self._held:
            if self._state is State.WEBSOCKET or self._state is State.HTTP2:
                data = bytes(self._held)
                self._held.clear()
                await self._inbox.handle(data)
            elif self._state is not State.HEAD:
                if len(self._held) > _HELD_LIMIT_BYTES:
                    self.cancel()  # it keeps sending without reading the answer
                return
            elif not await self._pass_on_head():
                return

    async def _pass_on_head(self) -> bool:
        """Pass on one request head; False when it is not all here."""
        parts = request.split_head(self._held, self._searched_bytes)
        head_bytes = len(self._held) if parts is None else len(parts[0])
        if head_bytes > self._config.h11_max_incomplete_size:
            await self._refuse(request.HEAD_TOO_LARGE)
            return False
        self._searched_bytes = 0 if parts else head_bytes
        if parts is None:
            if not self._head_begun:
                self._head_begun = True
                self._enter(State.HEAD, self._head_s)
            return False
        head = request.judge(parts[0])
        if isinstance(head, request.Refusal):
            await self._refuse(head)
            return False
        self._held = bytearray(parts[1])
        self._head_begun = False
        self._enter(State.HANDSHAKE if head.is_websocket else State.REQUEST)
        await self._inbox.handle(head.data)
        return True

    async def _refuse(self, refusal: request.Refusal) -> None:
        self._outbox.put(refusal.response())
        self._finish()
        await self._outbox.wait_writable()

    def _finish(self) -> None:
        """End our side: what is unsent leaves, then the peer has a moment to read it.

        A close with unread bytes in our buffer would be a reset, and a reset may overtake
        what the peer has not read yet: so the reader goes on, and discards.
        """
        self._session.leave()
        self._held.clear()
        self._enter(State.CLOSING, _LINGER_S)
        # Whatever Hypercorn or the app still wait for, it is over soon.
        self._scope.deadline = trio.current_time() + 2 * _LINGER_S
        self._outbox.finish()
        self._answered.set()

    # What Hypercorn sends

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Closed):
            if self._state is State.HTTP2:
                await self._outbox.wait_writable()
            self._finish()
        elif isinstance(event, Updated):
            self._on_updated(is_idle=event.idle)

    async def _send(self, data: bytes) -> None:
        self._outbox.put(data)
        if self._state is State.HANDSHAKE and data.startswith(_SWITCHING_PROTOCOLS):
            self._enter(State.ACCEPTED)
        elif self._state is State.ACCEPTED and wire.is_close_frame(data):
            self._finish()  # RFC 6455 §5.5.1: nothing follows a Close frame
        await self._outbox.wait_writable()

    def _on_updated(self, *, is_idle: bool) -> None:
        if self._state is State.HTTP2:
            self._enter(State.HTTP2, self._config.keep_alive_timeout if is_idle else inf)
            if is_idle and self._context.terminated.is_set():
                self._finish()  # Hypercorn has said that it takes no more: RFC 9113 §6.8
        elif is_idle and self._state is State.REQUEST:
            self._answered.set()
            self._answered = trio.Event()
            self._enter(State.HEAD, self._config.keep_alive_timeout)
            self._poke()

    # The app

    async def _run_app(
        self,
        scope: Scope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        if scope["type"] == "lifespan":
            raise AssertionError("a connection has no lifespan of its own")
        if self._state is not State.HTTP2:
            scope["extensions"][DOOR_EXTENSION] = {"door": self}
        try:
            await self._app(scope, receive, send)
        except BaseExceptionGroup as group:
            if not all(isinstance(error, trio.Cancelled) for error in leaves(group)):
                raise
            # Hypercorn would keep the group in a cycle with its own frame: cancelled is
            # cancelled, so let one plain `Cancelled` be raised instead.
        await trio.lowlevel.checkpoint_if_cancelled()

    # The door

    @property
    def outbox(self) -> Outbox:
        """Where the stream's bytes go."""
        return self._outbox

    def hand_over(self, session: Session) -> None:
        """See `Door`."""
        self._session = session
        self._inbox.let_go()
        if self._state is State.CLOSING or self._peer_finished:
            self.cancel()
        elif self._state is State.ACCEPTED:
            self._inbox = WebSocketInbox(
                self._outbox,
                limit_bytes=self._config.websocket_max_message_size,
                session=session,
                end=self.end,
            )
            self._enter(State.WEBSOCKET)
            self._poke()
        else:
            self._inbox = NO_INBOX
            self._enter(State.STREAM)

    def _is_handed_over(self) -> bool:
        return self._session is not _NO_SESSION

    def start_soon(self, run: Callable[[], Awaitable[None]]) -> None:
        """See `Door`."""
        self._spawn(run)

    def end(self, last: bytes) -> None:
        """See `Door`."""
        if last:
            self._outbox.put(last)
        self._finish()


class _NoSession:
    """The session of a connection that was not handed over."""

    def on_message(self, message: str | bytes) -> None:
        """Nobody listens yet."""

    is_congested = False

    def leave(self) -> None:
        """Nothing was left behind."""


_NO_SESSION = _NoSession()


def _address(sock: socket.socket, name: Callable[[socket.socket], Any]) -> tuple[str, int] | None:
    try:
        return parse_socket_addr(sock.family, name(sock))
    except OSError:  # the peer is gone already; the reader will see it
        return None
