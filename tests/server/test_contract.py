"""What we assume of Hypercorn, h11 and wsproto, each by name.

An upgrade that breaks one of these fails here, and says which; what follows from it is in the
module that is named beside it. The tests drive the libraries alone, without our server.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import h11
import pytest
import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.events import EndData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import FrameTooLargeError, WebsocketBuffer, WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from wsproto.connection import Connection, ConnectionType
from wsproto.connection import ConnectionState as WebSocketState
from wsproto.events import CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from tests.peer import client_frame, close_frame, handshake, request_head

App = Callable[..., Coroutine[Any, Any, None]]


class Driven:
    """A Hypercorn protocol with an app of the test's; `events` is all that it told us."""

    def __init__(
        self, tasks: TaskGroup, app: App, *, alpn: str = "http/1.1", config: Config | None = None
    ) -> None:
        self.events: list[Event] = []
        self.context = WorkerContext(None)
        self.wrapper = ProtocolWrapper(
            app,
            config or Config(),
            self.context,
            tasks,
            ConnectionState({}),
            False,
            ("127.0.0.1", 1),
            ("127.0.0.1", 2),
            self._note,
            alpn,
        )

    async def _note(self, event: Event) -> None:
        self.events.append(event)
        await trio.lowlevel.checkpoint()

    async def feed(self, data: bytes) -> None:
        """Handle `data`, and let the app come to rest."""
        await self.wrapper.handle(RawData(data))
        await trio.testing.wait_all_tasks_blocked()

    @property
    def sent(self) -> list[bytes]:
        """The bytes that it sent, event by event."""
        return [event.data for event in self.events if isinstance(event, RawData)]


async def answer(scope: Any, receive: Any, send: Any, *_: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"hello", "more_body": False})


async def accept_and_listen(scope: Any, receive: Any, send: Any, *_: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


# hypercorn.protocol: what `server.connection` stands on


async def test_one_request_is_answered_by_raw_data_and_then_one_idle_update() -> None:
    async with TaskGroup() as tasks:
        driven = Driven(tasks, answer)
        await driven.wrapper.initiate()
        await driven.feed(request_head("/"))
    kinds = [type(event) for event in driven.events]
    assert kinds == [Updated, RawData, RawData, RawData, Updated]
    assert [event.idle for event in driven.events if isinstance(event, Updated)] == [False, True]
    assert driven.sent[0].startswith(b"HTTP/1.1 200 \r\nx: y\r\n")


async def test_headers_leave_before_the_body_is_asked_for() -> None:
    """A stream of ours writes behind them: `web.sse`."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        seen.append(len(driven.sent))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with TaskGroup() as tasks:
        driven = Driven(tasks, app)
        await driven.feed(request_head("/"))
    assert seen == [1]


async def test_an_http_11_response_without_a_length_is_chunked_and_a_10_one_is_not() -> None:
    """`web.sse` frames its events itself, as these headers say."""

    async def stream(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    for version, expected in {"1.1": True, "1.0": False}.items():
        async with TaskGroup() as tasks:
            driven = Driven(tasks, stream)
            await driven.feed(request_head("/", version=version))
        assert (b"transfer-encoding: chunked" in driven.sent[0].lower()) is expected
        assert (driven.sent[-1] == b"0\r\n\r\n") is expected


async def test_once_terminated_an_answer_is_followed_by_closed() -> None:
    """`Server.stop_keepalive`."""
    async with TaskGroup() as tasks:
        driven = Driven(tasks, answer)
        await driven.context.terminated.set()
        await driven.feed(request_head("/"))
    assert isinstance(driven.events[-1], Closed)


async def test_a_handshake_is_answered_by_one_101_that_begins_so() -> None:
    async with TaskGroup() as tasks:
        driven = Driven(tasks, accept_and_listen)
        await driven.feed(handshake("/"))
        assert len(driven.sent) == 1
        assert driven.sent[0].startswith(b"HTTP/1.1 101 ")
        assert driven.sent[0].endswith(b"\r\n\r\n")
        await driven.wrapper.handle(Closed())


async def test_before_the_hand_over_each_frame_is_one_raw_data() -> None:
    """`Connection` knows a Close frame by its first byte."""

    async def refuse(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "x" * 200_000, "bytes": None})
        await send({"type": "websocket.close", "code": 1008, "reason": ""})

    async with TaskGroup() as tasks:
        driven = Driven(tasks, refuse)
        await driven.feed(handshake("/"))
    _, text, close = driven.sent
    assert text[0] == 0x81
    assert len(text) == 10 + 200_000
    assert close == b"\x88\x02\x03\xf0"
    assert isinstance(driven.events[-1], Closed)


async def test_an_app_that_returns_after_the_101_is_closed_by_1011() -> None:
    """Why nothing that it sends may pass once a connection is handed over: `server.tasks`."""

    async def leave(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})

    async with TaskGroup() as tasks:
        driven = Driven(tasks, leave)
        await driven.feed(handshake("/"))
    assert driven.sent[-1] == b"\x88\x02\x03\xf3"


async def test_the_scope_has_extensions_to_which_ours_can_be_added() -> None:
    scopes = []

    async def app(scope: Any, receive: Any, send: Any, *_: Any) -> None:
        scopes.append(scope)
        await answer(scope, receive, send)

    async with TaskGroup() as tasks:
        await Driven(tasks, app).feed(request_head("/a?b=c"))
    (scope,) = scopes
    assert isinstance(scope["extensions"], dict)
    assert (scope["path"], scope["query_string"], scope["http_version"]) == ("/a", b"b=c", "1.1")


# hypercorn.trio.task_group: what `server.tasks` and `server.http2` stand on


@pytest.mark.parametrize(
    ("head", "stream_class"), [(request_head("/"), HTTPStream), (handshake("/"), WSStream)]
)
async def test_spawn_app_is_given_a_bound_method_of_the_stream(
    head: bytes, stream_class: type[HTTPStream] | type[WSStream]
) -> None:
    sends = []

    class Tasks(TaskGroup):
        async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
            sends.append(send)
            return await super().spawn_app(app, config, scope, send)

    async with Tasks() as tasks:
        driven = Driven(tasks, answer if stream_class is HTTPStream else accept_and_listen)
        await driven.feed(head)
        await driven.wrapper.handle(Closed())
    (send,) = sends
    assert isinstance(send.__self__, stream_class)
    assert send == send.__self__.app_send


def test_a_task_group_has_the_two_ways_to_start_something() -> None:
    assert list(inspect.signature(TaskGroup.spawn).parameters) == ["self", "func", "args"]
    assert list(inspect.signature(TaskGroup.spawn_app).parameters) == [
        *("self", "app", "config", "scope", "send")
    ]


async def test_a_finished_app_is_told_by_none() -> None:
    """`server.http2` ends a stream there."""
    told = []

    class Tasks(TaskGroup):
        async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
            async def note(event: Any) -> None:
                told.append(event and event["type"])
                await send(event)

            return await super().spawn_app(app, config, scope, note)

    async with Tasks() as tasks:
        await Driven(tasks, answer).feed(request_head("/"))
    assert told == ["http.response.start", "http.response.body", None]


# hypercorn.protocol.ws_stream and h2: what `server.http2` stands on


async def test_a_websocket_stream_has_a_handshake_and_a_buffer_when_its_app_is_spawned() -> None:
    streams: list[WSStream] = []

    class Tasks(TaskGroup):
        async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
            stream = send.__self__
            streams.append(stream)
            assert stream.handshake.extensions == ["permessage-deflate"]
            stream.handshake.extensions = None
            return await super().spawn_app(app, config, scope, send)

    async with Tasks() as tasks:
        driven = Driven(tasks, accept_and_listen)
        await driven.feed(handshake("/", "Sec-WebSocket-Extensions: permessage-deflate"))
        await driven.wrapper.handle(Closed())
    (stream,) = streams
    assert isinstance(stream.buffer, WebsocketBuffer)
    assert b"extensions" not in driven.sent[0].lower()
    assert isinstance(stream.stream_id, int)
    assert EndData(stream_id=1).stream_id == 1


def test_a_buffer_keeps_what_was_too_much() -> None:
    """Were it not so, `_BoundedBuffer` would be needless."""
    buffer = WebsocketBuffer(10)
    with pytest.raises(FrameTooLargeError):
        buffer.extend(TextMessage(data="x" * 20))
    assert buffer.value is not None
    assert buffer.length == 20


async def test_an_http2_protocol_has_its_streams_and_their_buffers_by_number() -> None:
    async with TaskGroup() as tasks:
        protocol = Driven(tasks, answer, alpn="h2").wrapper.protocol
    assert isinstance(protocol, H2Protocol)
    assert (protocol.streams, protocol.stream_buffers, protocol.idle) == ({}, {}, True)
    assert inspect.iscoroutinefunction(protocol.stream_send)
    assert isinstance(Driven(TaskGroup(), answer).wrapper.protocol, H11Protocol)


# h11: what `server.request` stands on


def test_h11_says_nothing_is_behind_a_head_without_a_body() -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(request_head("/"))
    assert isinstance(server.next_event(), h11.Request)
    assert isinstance(server.next_event(), h11.EndOfMessage)
    assert server.next_event() is h11.NEED_DATA


def test_h11_takes_what_we_refuse() -> None:
    """Were it not so, `judge` could be shorter: two lengths, and an upgrade on any method."""
    for head in (
        request_head("/", "Transfer-Encoding: chunked", "Content-Length: 5", method="POST"),
        handshake("/", method="POST"),
    ):
        server = h11.Connection(h11.SERVER)
        server.receive_data(head)
        assert isinstance(server.next_event(), h11.Request)


# wsproto: what `server.websocket` stands on


def test_wsproto_tells_what_came_and_makes_the_answers() -> None:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(client_frame(0x9, b"?") + client_frame(0x1, b"text") + close_frame(1000))
    events = server.events()  # each is parsed when it is asked for, so the state is still open
    ping = next(events)
    assert isinstance(ping, Ping)
    assert server.send(ping.response()) == b"\x8a\x01?"
    text, close = events
    assert isinstance(text, TextMessage)
    assert (text.data, text.message_finished) == ("text", True)
    assert isinstance(close, CloseConnection)
    assert server.state is WebSocketState.REMOTE_CLOSING
    assert server.send(close.response()) == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(0x3), CloseReason.PROTOCOL_ERROR),
        (client_frame(0x1, b"\xff"), CloseReason.INVALID_FRAME_PAYLOAD_DATA),
        (b"\xc1\x80\0\0\0\0", CloseReason.PROTOCOL_ERROR),
    ],
)
def test_wsproto_says_with_which_code_a_breach_is_closed(data: bytes, code: CloseReason) -> None:
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    (event,) = server.events()
    assert isinstance(event, CloseConnection)
    assert event.code == code
    assert server.state is WebSocketState.OPEN


def test_wsproto_gives_a_message_in_parts_as_they_come() -> None:
    """So that `WebSocketInbox` can count them before they are whole."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(client_frame(0x2, b"x" * 1000)[:500])
    (part,) = server.events()
    assert not part.message_finished  # type: ignore[attr-defined]  # a Message


# hypercorn.config and utils


def test_the_names_of_a_unix_socket_are_no_error() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert parse_socket_addr(ours.family, ours.getsockname()) is None


def test_config_has_what_app_sets() -> None:
    """A misspelt attribute would be set all the same, and do nothing."""
    for name in (
        *("bind", "backlog", "certfile", "keyfile", "keyfile_password", "ca_certs", "ciphers"),
        *("alpn_protocols", "root_path", "keep_alive_timeout", "keep_alive_max_requests"),
        *("ssl_handshake_timeout", "h11_max_incomplete_size", "h2_max_header_list_size"),
        *("h2_max_inbound_frame_size", "websocket_max_message_size", "websocket_ping_interval"),
        *("include_server_header", "accesslog", "errorlog", "wsgi_max_body_size"),
    ):
        assert hasattr(Config, name), name
