"""The stream as a WebSocket, as the libraries that clients use see it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
import trio_websocket
import websockets.exceptions
import websockets.sync.client

from tests.gateway import DEADLINE_S, STREAM, Gateway, start_gateway, start_stock_gateway
from tests.peer import CLOSE, PING, TEXT, Frame, client_frame
from tracker.domain.event import reconnect
from tracker.domain.reasons import CloseReason
from tracker.server import connection
from tracker.web import last_words

Closed = tuple[list[str], int | None]


def url_of(gateway: Gateway, query: str) -> str:
    return f"{gateway.url.replace('http', 'ws', 1)}{STREAM}{query}"


@asynccontextmanager
async def open_trio_websocket(url: str) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    """A connection of trio-websocket's over a socket of ours: it does not close its own when
    the server was first."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    stream = await trio.open_tcp_stream(parts.hostname, parts.port)
    with stream.socket:
        async with trio.open_nursery() as nursery:
            yield await trio_websocket.wrap_client_stream(
                nursery, stream, parts.hostname, f"{parts.path}?{parts.query}"
            )
            nursery.cancel_scope.cancel()


async def code_of(websocket: trio_websocket.WebSocketConnection) -> int | None:
    """Read until the server closes it; the code that it gave."""
    try:
        while True:
            await websocket.get_message()
    except trio_websocket.ConnectionClosed as closed:
        return closed.reason.code if closed.reason else None


async def by_trio_websocket(url: str, behind: Callable[[], None]) -> Closed:
    """What trio-websocket sees until the end: events by name, and the code."""
    names: list[str] = []
    async with open_trio_websocket(url) as websocket:
        behind()
        try:
            while True:
                names.append(json.loads(await websocket.get_message())["event"])
        except trio_websocket.ConnectionClosed as closed:
            return names, closed.reason.code if closed.reason else None


async def by_websockets(url: str, behind: Callable[[], None]) -> Closed:
    """The same with websockets, which blocks, in a thread."""

    def read() -> Closed:
        names: list[str] = []
        with websockets.sync.client.connect(url) as websocket:
            trio.from_thread.run_sync(behind)
            try:
                while True:
                    names.append(json.loads(websocket.recv(timeout=DEADLINE_S))["event"])
            except websockets.exceptions.ConnectionClosed as closed:
                return names, closed.rcvd.code if closed.rcvd else None

    return await trio.to_thread.run_sync(read, abandon_on_cancel=True)


LIBRARIES = [by_trio_websocket, by_websockets]


@pytest.mark.parametrize("watch", LIBRARIES)
@pytest.mark.parametrize("start", [start_gateway, start_stock_gateway])
async def test_libraries_see_the_error_and_the_1008(
    nursery: trio.Nursery,
    watch: Callable[[str, Callable[[], None]], object],
    start: Callable[[trio.Nursery], object],
) -> None:
    gateway: Gateway = await start(nursery)  # type: ignore[misc]  # either one is awaited
    with trio.fail_after(DEADLINE_S):
        seen = await watch(url_of(gateway, ""), lambda: None)  # type: ignore[misc]
    assert seen == (["error"], 1008)


@pytest.mark.parametrize("watch", LIBRARIES)
@pytest.mark.parametrize("start", [start_gateway, start_stock_gateway])
async def test_libraries_see_the_reconnect_and_the_1012(
    nursery: trio.Nursery,
    watch: Callable[[str, Callable[[], None]], object],
    start: Callable[[trio.Nursery], object],
) -> None:
    gateway: Gateway = await start(nursery)  # type: ignore[misc]

    async def send_away() -> None:
        await gateway.wait_streams(1)
        (stream,) = gateway.parts.hub.streams()
        stream.post(reconnect(1500, "shutdown"))
        stream.close(CloseReason.SHUTDOWN)

    with trio.fail_after(DEADLINE_S):
        seen = await watch(url_of(gateway, "?device_ids=a"), lambda: nursery.start_soon(send_away))  # type: ignore[misc]
    assert seen == (["reconnect"], 1012)
    await gateway.wait_streams(0)
    assert gateway.statistics.closed[CloseReason.SHUTDOWN] == 1


async def test_a_flood_and_a_giant_are_told_by_their_codes(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"client_messages_per_s": 5})
    for messages, code in ((["x"] * 200, 1008), (["x" * 70_000], 1009)):
        with trio.fail_after(DEADLINE_S):
            async with open_trio_websocket(url_of(gateway, "?device_ids=a")) as websocket:
                try:
                    for message in messages:
                        await websocket.send_message(message)
                except trio_websocket.ConnectionClosed:
                    pass  # it was told in the midst of it
                assert await code_of(websocket) == code


async def test_a_library_closes_in_peace(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    with trio.fail_after(DEADLINE_S):
        for code in (1000, 1001, 4000):
            async with open_trio_websocket(url_of(gateway, "?device_ids=a")) as websocket:
                await gateway.wait_streams(1)
                await websocket.ping(b"still there?")
                await websocket.aclose(code)
                assert await code_of(websocket) == code
            await gateway.wait_streams(0)
    await gateway.wait_connections(0)


async def test_a_client_that_comes_during_the_drain_is_sent_away_at_once(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    gateway.parts.readiness.stop()
    peer = await gateway.connect()
    await peer.open_websocket("a")
    told, close = await peer.read_frames_to_end()
    assert json.loads(told.payload)["event"] == "reconnect"
    assert close.code == 1012
    assert gateway.statistics.closed[CloseReason.SHUTDOWN] == 1


async def test_what_waits_is_sent_before_the_close_frame(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect(receive_buffer_bytes=4096)
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    (stream,) = gateway.parts.hub.streams()
    published = 0
    while len(stream.queue) < 50:
        await gateway.publish("a", size=1000, N=published)
        published += 1
    stream.post(reconnect(1500, "shutdown"))
    stream.close(CloseReason.SHUTDOWN)
    frames = await peer.read_frames_to_end()
    numbers = [json.loads(frame.payload)["data"]["data"]["N"] for frame in frames[:-2]]
    assert numbers == list(range(published))
    assert json.loads(frames[-2].payload)["event"] == "reconnect"
    assert frames[-1] == Frame(CLOSE, (1012).to_bytes(2, "big"))


async def test_a_client_that_takes_nothing_is_waited_for_only_so_long(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_words, "_LAST_WORDS_S", 0.2)
    monkeypatch.setattr(connection, "_LINGER_S", 0.2)
    gateway = await start_gateway(nursery)
    peer = await gateway.connect(receive_buffer_bytes=4096)
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    (stream,) = gateway.parts.hub.streams()
    while len(stream.queue) < 50:
        await gateway.publish("a", size=1000)
    stream.close(CloseReason.SHUTDOWN)
    await gateway.wait_streams(0)
    statistics = gateway.statistics
    assert statistics.offered == statistics.delivered + sum(statistics.dropped.values())
    await gateway.wait_connections(0)


async def test_heartbeats_are_ping_frames_and_keep_alives_are_events(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(
        nursery, stream={"heartbeat_s": 0.1, "ping_s": 0.1}, with_ticker=True
    )
    peer = await gateway.connect()
    await peer.open_websocket("a")
    frames = [await peer.read_frame() for _ in range(6)]
    assert {frame.opcode for frame in frames} == {PING, TEXT}
    texts = {frame.payload for frame in frames if frame.opcode == TEXT}
    assert texts == {b'{"event":"ping","data":{"type":"keep-alive"}}'}


async def test_under_a_stock_server_a_flood_is_closed_too(nursery: trio.Nursery) -> None:
    gateway = await start_stock_gateway(nursery, stream={"client_messages_per_s": 5})
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await peer.send(client_frame(TEXT, b"x") * 15)
    assert (await peer.read_frame()).code == 1008
    await gateway.wait_streams(0)
