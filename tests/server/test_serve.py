"""The server: its addresses, TLS, its connections together, and its end."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.faults import SMALL_BUFFER_BYTES
from tests.gateway import STREAM, Gateway, make_settings, start_gateway
from tests.http2 import connect_tls, tls_context
from tests.mqtt.conftest import Certificates
from tests.peer import (
    CLOSE,
    DEADLINE_S,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    client_frame,
    close_frame,
    handshake,
    request_head,
)
from tracker.app import Parts, hypercorn_config
from tracker.domain.reasons import CloseReason
from tracker.server import connection, request, serve, sockets
from tracker.server.serve import Server
from tracker.server.sockets import BindError

STATS = f"{STREAM}/stats"

OpenTls = Callable[..., Awaitable[Peer]]


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LINGER_S", 0.2)


def make_server(**http: object) -> Server:
    settings = make_settings(http=http)
    return Server(
        Parts(settings).web,
        hypercorn_config(settings),
        stall_s=settings.stream.stall_s,
        head_s=settings.http.read_head_timeout,
    )


# Addresses


async def test_a_server_listens_on_every_address_that_it_tells(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    path = tmp_path / "http"
    server = make_server(bind=("127.0.0.1:0", "[::1]:0", f"unix:{path}"))
    v4, v6, unix = await nursery.start(server.serve)
    assert server.urls == (v4, v6, unix)
    streams = [
        await trio.open_tcp_stream("127.0.0.1", int(v4.removeprefix("http://127.0.0.1:"))),
        await trio.open_tcp_stream("::1", int(v6.removeprefix("http://[::1]:"))),
        await trio.open_unix_socket(unix.removeprefix("http+unix:")),
    ]
    for stream in streams:
        peer = Peer(stream)
        assert (await peer.request(STATS)).status == 200
        await peer.open_websocket("a")
        await peer.send(client_frame(PING, b"1"))
        assert await peer.read_frame() == Frame(PONG, b"1")
        await peer.send(close_frame(1000))
        assert [frame.code for frame in await peer.read_frames_to_end()] == [1000]
        await peer.close()


async def test_a_stalled_client_of_a_unix_socket_is_closed_and_counted(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    path = tmp_path / "http"
    gateway = await start_gateway(
        nursery, http={"bind": (f"unix:{path}",)}, stream={"stall_s": 0.3}
    )
    peer = Peer(await trio.open_unix_socket(str(path)))
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    with trio.fail_after(DEADLINE_S):
        while gateway.parts.hub.streams():
            await gateway.publish("a", size=5000)
            await trio.sleep(0.001)
    assert gateway.statistics.closed[CloseReason.STALLED] == 1
    await peer.close()


# Hypercorn leaves the socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_address_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(BindError, match=f"cannot listen on {address}: "):
            await make_server(bind=(address,)).serve()


# Connections together


async def test_the_statistics_count_what_is_open_and_what_ever_was(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    first, second = await gateway.connect(), await gateway.connect()
    await first.request(STATS)
    await second.request(STATS)
    statistics = gateway.server.statistics()
    assert (statistics.open, statistics.accepted, statistics.refused) == (2, 2, 0)
    await first.close()
    await gateway.wait_connections(1)
    assert gateway.server.statistics().accepted == 2


async def test_without_descriptors_it_waits_and_then_serves_who_waited(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [errno.EMFILE, errno.ENFILE, errno.ENOMEM]

    async def accept_at_last(listener: socket.socket) -> socket.socket:
        if failures:
            raise OSError(number := failures.pop(), os.strerror(number))
        return await sockets.accept(listener)

    monkeypatch.setattr(serve, "accept", accept_at_last)
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    assert (await peer.request(STATS)).status == 200
    assert gateway.server.statistics().refused == 3
    assert [record.getMessage() for record in caplog.records] == [
        "no connection can be accepted: Cannot allocate memory"
    ]


async def test_a_storm_of_connects_is_served_without_refusing(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    steady = await gateway.connect()
    await steady.open_websocket("a")
    await gateway.wait_streams(1)
    served: list[int] = []

    async def connect(number: int) -> None:
        peer = await gateway.connect()
        assert (await peer.open_websocket(f"b{number}")).status == 101
        served.append(number)

    async with trio.open_nursery() as storm:
        for number in range(200):
            storm.start_soon(connect, number)
        for number in range(20):
            await gateway.publish("a", N=number)
            assert json.loads((await steady.read_frame()).payload)["data"]["data"]["N"] == number
    assert sorted(served) == list(range(200))
    await gateway.wait_streams(201)


async def test_a_fault_within_a_connection_is_one_line_and_ends_nobody_else(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(nursery)

    def fail(_: bytes) -> None:
        raise RuntimeError("told to")

    peer = await gateway.connect()
    with monkeypatch.context() as patch:
        patch.setattr(request, "judge", fail)
        await peer.send(request_head(STATS))
        await peer.read_end()
    assert [record.getMessage() for record in caplog.records] == [
        "connection closed after RuntimeError('told to')"
    ]
    assert (await (await gateway.connect()).request(STATS)).status == 200


# The end


async def test_cancelling_closes_every_connection_and_gives_all_descriptors_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery)
        peers = [await gateway.connect() for _ in range(4)]
        await peers[0].open_websocket("a")
        await peers[1].open_sse("a")
        await peers[2].request(STATS)
        await gateway.wait_streams(2)
        nursery.cancel_scope.cancel()
    for peer in peers:
        peer.forget()
    assert gateway.parts.hub.streams() == []
    assert gateway.server.statistics().open == 0
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_cancelled_server_says_nothing_that_is_not_so() -> None:
    """No 500, no 1011: who is cut sees a bare end."""
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            gateway = await start_gateway(nursery)
            peers = [Peer((await gateway.connect()).stream) for _ in range(2)]
            await peers[0].open_websocket("a")
            await peers[1].open_sse("a")
            await peers[1].read_position()
            await gateway.wait_streams(2)
            # these outlive the gateway, to read what it said
            streams = [peer.stream.socket.dup() for peer in peers]
            nursery.cancel_scope.cancel()
        for sock in streams:
            with sock, trio.fail_after(DEADLINE_S):
                assert await sock.recv(1000) == b""
        outer.cancel_scope.cancel()


async def test_stop_keepalive_ends_what_is_idle_and_lets_answers_finish(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    idle, silent, half, streaming = [await gateway.connect() for _ in range(4)]
    await idle.request(STATS)
    await half.send(b"GET / HT")
    await streaming.open_sse("a")
    await streaming.read_position()
    await gateway.wait_streams(1)
    await gateway.wait_connections(4)
    await gateway.server.stop_keepalive()
    for peer in (idle, silent, half):
        assert await peer.read_end() == b""
    await gateway.wait_connections(1)
    (stream,) = gateway.parts.hub.streams()
    stream.close(CloseReason.SHUTDOWN)
    assert await streaming.read_chunk() == b""
    assert await streaming.read_end() == b""
    with trio.fail_after(DEADLINE_S):
        await gateway.server.wait_empty()
    # and who comes now gets one answer
    late = await gateway.connect()
    assert (await late.request(STATS)).status == 200
    assert await late.read_end() == b""


async def test_wait_empty_returns_at_once_when_nobody_is_there(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    await gateway.server.wait_empty()


# TLS


@pytest.fixture
async def secure(nursery: trio.Nursery, certificates: Certificates) -> Gateway:
    """A gateway that speaks TLS, with short deadlines."""
    return await start_gateway(
        nursery,
        http={
            "certfile": str(certificates.server),
            "keyfile": str(certificates.server_key),
            "ssl_handshake_timeout": 0.5,
        },
        stream={"stall_s": 0.5},
    )


@pytest.fixture
async def open_tls(certificates: Certificates) -> AsyncIterator[OpenTls]:
    """Open a TLS connection with HTTP/1.1; it ends with the test."""
    peers: list[Peer] = []

    async def connect(gateway: Gateway, *protocols: str) -> Peer:
        context = tls_context(str(certificates.ca), *(protocols or ("http/1.1",)))
        peers.append(Peer(await connect_tls(gateway.port, context)))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.forget()


async def test_https_serves_requests_and_tells_the_end(secure: Gateway, open_tls: OpenTls) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    peer = await open_tls(secure)
    assert (await peer.request(STATS)).status == 200
    response = await peer.request(STATS, "Connection: close")
    assert response.status == 200
    # a close_notify, not a cut: RFC 8446 §6.1
    assert await peer.read_end() == b""


async def test_wss_carries_messages_pings_and_the_close(secure: Gateway, open_tls: OpenTls) -> None:
    peer = await open_tls(secure)
    await peer.open_websocket("a", behind=client_frame(PING, b"early"))
    assert await peer.read_frame() == Frame(PONG, b"early")
    await secure.wait_streams(1)
    numbers = []
    for first in range(0, 300, 100):
        for number in range(first, first + 100):
            await secure.publish("a", size=200, N=number)
        for _ in range(100):
            frame = await peer.read_frame()
            assert frame.opcode == TEXT
            numbers.append(json.loads(frame.payload)["data"]["data"]["N"])
    assert numbers == list(range(300))
    await peer.send(close_frame(1000))
    assert [frame.code for frame in await peer.read_frames_to_end()] == [1000]


async def test_a_burst_over_tls_above_the_limit_loses_nothing(
    secure: Gateway, open_tls: OpenTls
) -> None:
    """A task encrypts it, but the kernel has refused nothing: PROTOCOL A4."""
    peer = await open_tls(secure)
    await peer.open_websocket("a")
    await secure.wait_streams(1)
    await secure.publish_payloads([f'{{"DEVICE_ID":"a","N":{n}}}'.encode() for n in range(400)])
    for number in range(400):
        frame = await peer.read_frame()
        assert json.loads(frame.payload)["data"]["data"]["N"] == number
    assert sum(secure.statistics.dropped.values()) == 0


async def test_sse_over_tls(secure: Gateway, open_tls: OpenTls) -> None:
    peer = await open_tls(secure)
    await peer.open_sse("a")
    await peer.read_position()
    await secure.wait_streams(1)
    await secure.publish("a", N=1)
    assert b'"N":1' in await peer.read_chunk()
    await peer.close()
    await secure.wait_streams(0)
    await secure.wait_connections(0)


async def test_a_client_without_alpn_gets_http_11(
    secure: Gateway, certificates: Certificates
) -> None:
    context = ssl.create_default_context(cafile=str(certificates.ca))
    peer = Peer(await connect_tls(secure.port, context))
    assert (await peer.request(STATS)).status == 200
    peer.forget()


@pytest.mark.slow
@pytest.mark.parametrize(
    "data", [b"", b"\x16\x03\x01", request_head(STATS), os.urandom(100)], ids=str
)
async def test_a_handshake_that_comes_to_nothing_is_closed_without_a_line(
    secure: Gateway, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await secure.connect()
    await peer.send(data)
    try:
        await peer.read_end()
    except trio.BrokenResourceError:
        pass  # our bytes may be unread
    await secure.wait_connections(0)
    assert caplog.records == []


async def test_a_head_that_does_not_come_behind_the_handshake_has_its_own_deadline(
    nursery: trio.Nursery, certificates: Certificates
) -> None:
    gateway = await start_gateway(
        nursery,
        http={
            "certfile": str(certificates.server),
            "keyfile": str(certificates.server_key),
            "read_head_timeout": 0.3,
        },
    )
    context = tls_context(str(certificates.ca), "http/1.1")
    peer = Peer(await connect_tls(gateway.port, context))
    await peer.send(b"GET / HTTP/1.1\r\n")
    assert (await peer.read_response()).status == 408
    peer.forget()


@pytest.mark.slow
async def test_a_tls_client_that_never_reads_is_closed_and_counted(
    secure: Gateway, certificates: Certificates
) -> None:
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
    await sock.connect(("127.0.0.1", secure.port))
    tls = trio.SSLStream(
        trio.SocketStream(sock),
        tls_context(str(certificates.ca), "http/1.1"),
        server_hostname="127.0.0.1",
    )
    await tls.do_handshake()
    await tls.send_all(handshake(f"{STREAM}?device_ids=a"))
    await secure.wait_streams(1)
    with trio.fail_after(DEADLINE_S):
        while secure.parts.hub.streams():
            await secure.publish("a", size=3000)
            await trio.sleep(0.001)
    assert secure.statistics.closed[CloseReason.STALLED] == 1
    await secure.wait_connections(0)
    sock.close()


async def test_a_tls_client_that_leaves_in_any_way_leaves_nothing(
    secure: Gateway, open_tls: OpenTls, caplog: pytest.LogCaptureFixture
) -> None:
    for end in ("close_notify", "FIN", "RST", "Close frame"):
        peer = await open_tls(secure)
        await peer.open_websocket("a")
        await secure.wait_streams(1)
        assert isinstance(peer.stream, trio.SSLStream)
        transport = peer.stream.transport_stream
        if end == "close_notify":
            await peer.close()
        elif end == "FIN":
            await transport.send_eof()
        elif end == "RST":
            await Peer(transport).reset()
        else:
            await peer.send(close_frame(1000))
            assert [frame.opcode for frame in await peer.read_frames_to_end()] == [CLOSE]
        await secure.wait_streams(0)
        peer.forget()
    await secure.wait_connections(0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
