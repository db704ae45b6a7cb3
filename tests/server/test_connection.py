"""One connection, from its first byte to its close: what a client may do to it."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from h11 import LocalProtocolError

from tests.faults import (
    DribblingPeer,
    PumpingPeer,
    RudePeer,
    StalledPeer,
    VanishedPeer,
    pong_hail,
)
from tests.gateway import STREAM, Gateway, start_gateway, start_stock_gateway
from tests.peer import (
    BINARY,
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
from tracker.domain.reasons import CloseReason
from tracker.server import connection
from tracker.server.websocket import WebSocketInbox

STATS = f"{STREAM}/stats"
HELLO = client_frame(TEXT, b"hello")


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not close its side costs a test less than two seconds."""
    monkeypatch.setattr(connection, "_LINGER_S", 0.2)


async def assert_serves(gateway: Gateway) -> None:
    """Show that the gateway still answers."""
    peer = await gateway.connect()
    assert (await peer.request(STATS)).status == 200
    await peer.close()


def message_of(response_body: bytes) -> str:
    """The text of an error envelope."""
    envelope = json.loads(response_body)
    assert set(envelope) == {"event", "data"}
    assert envelope["event"] == "error"
    message: str = envelope["data"]["message"]
    return message


def numbers_in(frames: list[Frame]) -> list[int]:
    """The N of every data message among frames."""
    return [
        json.loads(frame.payload)["data"]["data"]["N"]
        for frame in frames
        if frame.opcode == TEXT and frame.payload.startswith(b'{"event":"message"')
    ]


# Bytes behind an upgrade


@pytest.mark.parametrize("target", [STREAM, f"{STREAM}?device_ids=a", "/no/where"])
async def test_bytes_behind_an_upgrade_end_nobody(nursery: trio.Nursery, target: str) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(handshake(target) + HELLO)
    assert (await peer.read_head()).status in (101, 404)
    await assert_serves(gateway)


async def test_a_frame_that_came_early_is_heard_once_the_101_has_left(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    head = await peer.open_websocket("a", behind=client_frame(PING, b"early"))
    assert head.status == 101
    assert await peer.read_frame() == Frame(PONG, b"early")
    await gateway.publish("a", N=1)
    assert numbers_in([await peer.read_frame()]) == [1]


async def test_early_frames_are_heard_in_their_order(nursery: trio.Nursery) -> None:
    """However the bytes are cut, before and after the 101."""
    gateway = await start_gateway(nursery)
    pings = [client_frame(PING, b"%d" % number) for number in range(40)]
    data = b"".join(pings)
    for cut in range(1, 60, 7):
        peer = await gateway.connect()
        await peer.send(handshake(f"{STREAM}?device_ids=a") + data[:cut])
        await trio.lowlevel.checkpoint()
        for start in range(cut, len(data), 13):
            await peer.send(data[start : start + 13])
        assert (await peer.read_head()).status == 101
        assert [await peer.read_frame() for _ in pings] == [
            Frame(PONG, b"%d" % number) for number in range(40)
        ]
        await peer.close()


async def test_on_the_stock_server_bytes_behind_an_upgrade_end_everybody() -> None:
    with pytest.RaisesGroup(LocalProtocolError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            gateway = await start_stock_gateway(nursery)
            peer = await gateway.connect()
            await peer.send(handshake(f"{STREAM}?device_ids=a") + HELLO)
            with trio.fail_after(DEADLINE_S):
                await trio.sleep_forever()


# Requests that never become a stream


@pytest.mark.parametrize("method", ["POST", "CONNECT", "PUT"])
async def test_an_upgrade_on_another_method_is_refused_and_leaves_nothing(
    nursery: trio.Nursery, method: str
) -> None:
    gateway = await start_gateway(nursery)
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    peer = await gateway.connect()
    await peer.send(handshake(f"{STREAM}?device_ids=a", method=method))
    response = await peer.read_response()
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert message_of(response.body) == (
        "the method is not allowed here, expected GET, HEAD or OPTIONS"
    )
    assert await peer.read_end() == b""
    await peer.close()
    await gateway.wait_connections(0)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request_head("/", "Content-Length: 5", method="POST") + b"12345", 405),
        (request_head("/", "Content-Length: 5") + b"12345", 413),
        (request_head("/", "Content-Length: 999999999"), 413),
        (request_head("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 413),
        (request_head("/", "Expect: 100-continue", "Content-Length: 9"), 413),
        (request_head("/", "Transfer-Encoding: chunked", "Content-Length: 0"), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\n\n", 400),
        (request_head("/", "X: " + "x" * 40_000), 431),
        (handshake("/").replace(b"13", b"12"), 426),
    ],
)
async def test_what_is_refused_gets_one_answer_and_the_end(
    nursery: trio.Nursery, head: bytes, status: int
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(head)
    response = await peer.read_response()
    assert (response.status, response.headers["connection"]) == (status, "close")
    assert message_of(response.body)
    assert await peer.read_end() == b""


async def test_a_head_that_never_ends_is_refused_while_it_is_being_sent(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_500)
    assert (await peer.read_response()).status == 431


async def test_a_long_list_of_devices_fits_into_a_head(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    ids = ",".join(f"{number:030}" for number in range(1000))
    assert (await peer.open_websocket(ids)).status == 101
    await gateway.wait_streams(1)
    assert gateway.statistics.subscriptions == 1000


async def test_h2c_is_answered_as_plain_http(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    response = await peer.request(
        STATS, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"
    )
    assert response.status == 200


async def test_a_body_that_is_pumped_behind_a_refusal_starves_nobody(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    head = request_head("/", "Content-Length: 99999999999", method="POST")
    with PumpingPeer(gateway.port, head, b"x" * 65536) as rude:
        nursery.start_soon(rude.pump)
        with trio.fail_after(DEADLINE_S):
            await rude.has_ended.wait()
    await assert_serves(gateway)


async def test_pongs_without_end_starve_nobody(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    head = handshake(f"{STREAM}?device_ids=a")
    with PumpingPeer(gateway.port, head, pong_hail()) as rude:
        nursery.start_soon(rude.pump)
        await gateway.wait_streams(1)
        for _ in range(5):
            await assert_serves(gateway)


# The head's deadline


async def test_a_head_that_is_half_sent_is_a_408(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, http={"read_head_timeout": 0.2})
    peer = await gateway.connect()
    await peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
    response = await peer.read_response()
    assert response.status == 408
    assert message_of(response.body)
    assert await peer.read_end() == b""


@pytest.mark.slow
async def test_dribbled_header_lines_do_not_move_the_deadline(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, http={"read_head_timeout": 0.5})
    peer = await gateway.connect()
    await peer.send(b"GET / HTTP/1.1\r\n")
    answered = trio.Event()

    async def dribble() -> None:
        while not answered.is_set():
            await peer.send(b"X: y\r\n")
            await trio.sleep(0.05)

    async with trio.open_nursery() as dribbling:
        dribbling.start_soon(dribble)
        assert (await peer.read_response()).status == 408
        answered.set()


async def test_who_sends_nothing_at_all_is_closed_without_a_word(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, http={"read_head_timeout": 0.2})
    peer = await gateway.connect()
    assert await peer.read_end() == b""


@pytest.mark.slow
async def test_between_two_requests_the_deadline_is_that_of_keep_alive(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(
        nursery, http={"read_head_timeout": 0.2, "keep_alive_timeout": 30}
    )
    peer = await gateway.connect()
    assert (await peer.request(STATS)).status == 200
    await trio.sleep(0.5)
    assert (await peer.request(STATS)).status == 200
    # but once its head has begun, it is the head's
    await peer.send(b"GET")
    assert (await peer.read_response()).status == 408


async def test_what_is_idle_for_too_long_is_closed_without_a_word(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, http={"keep_alive_timeout": 0.2})
    peer = await gateway.connect()
    assert (await peer.request(STATS)).status == 200
    assert await peer.read_end() == b""


@pytest.mark.slow
async def test_a_stream_outlives_every_deadline_of_a_request(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(
        nursery, http={"read_head_timeout": 0.1, "keep_alive_timeout": 0.1}
    )
    sse, websocket = await gateway.connect(), await gateway.connect()
    await sse.open_sse("a")
    await sse.read_position()
    await websocket.open_websocket("a")
    await gateway.wait_streams(2)
    await trio.sleep(0.5)
    await gateway.publish("a", N=1)
    assert b'"N":1' in await sse.read_chunk()
    assert numbers_in([await websocket.read_frame()]) == [1]


# Keep-alive and pipelining


async def test_a_connection_serves_one_request_after_the_other(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    for method in ("GET", "HEAD", "OPTIONS", "GET"):
        assert (await peer.request(STATS, method=method)).status == 200
    assert gateway.server.statistics().accepted == 1


async def test_pipelined_requests_are_answered_in_their_order(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    targets = [STATS, "/healthz", "/nowhere", STATS]
    await peer.send(b"".join(map(request_head, targets)))
    assert [(await peer.read_response()).status for _ in targets] == [200, 200, 404, 200]


async def test_a_connection_ends_after_so_many_requests(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, http={"keep_alive_max_requests": 2})
    peer = await gateway.connect()
    with trio.fail_after(DEADLINE_S):
        while (await peer.request(STATS)).headers.get("connection") != "close":
            pass
    assert await peer.read_end() == b""


async def test_connection_close_ends_it_behind_the_answer(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    response = await peer.request(STATS, "Connection: close")
    assert (response.status, response.headers["connection"]) == (200, "close")
    assert await peer.read_end() == b""


async def test_http_10_ends_behind_the_answer(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(f"GET {STATS} HTTP/1.0\r\n\r\n".encode())
    assert (await peer.read_response()).status == 200
    assert await peer.read_end() == b""


async def test_a_request_behind_a_stream_hides_no_disconnect(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_sse("a")
    await peer.read_position()
    await gateway.wait_streams(1)
    await peer.send(request_head(STATS))
    await gateway.publish("a", N=1)
    assert b'"N":1' in await peer.read_chunk()
    await peer.close()
    await gateway.wait_streams(0)
    await gateway.wait_connections(0)


@pytest.mark.slow
async def test_on_the_stock_server_a_request_behind_a_stream_hides_the_disconnect() -> None:
    async with trio.open_nursery() as nursery:
        gateway = await start_stock_gateway(nursery)
        peer = await gateway.connect()
        await peer.open_sse("a")
        await gateway.wait_streams(1)
        await peer.send(request_head(STATS))
        await peer.close()
        with trio.move_on_after(0.5):
            await gateway.wait_streams(0)
        assert len(gateway.parts.hub.streams()) == 1
        nursery.cancel_scope.cancel()


async def test_what_is_sent_behind_a_stream_is_bounded(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    head = request_head(f"{STREAM}?device_ids=a")
    with PumpingPeer(gateway.port, head, b"x" * 65536) as rude:
        nursery.start_soon(rude.pump)
        with trio.fail_after(DEADLINE_S):
            await rude.has_ended.wait()
    await gateway.wait_streams(0)


# Clients that finish early


async def test_a_client_that_finished_still_gets_its_answers(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(request_head(STATS) + request_head("/nowhere") + request_head("/healthz"))
    await peer.finish()
    assert [(await peer.read_response()).status for _ in range(3)] == [200, 404, 200]
    assert await peer.read_end() == b""


@pytest.mark.parametrize("head", [b"", b"GET / HT", request_head("/") + b"GET / HT"])
async def test_a_client_that_finished_within_a_head_is_closed(
    nursery: trio.Nursery, head: bytes
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(head)
    await peer.finish()
    await peer.read_end()
    await gateway.wait_connections(0)


@pytest.mark.parametrize("make", [request_head, handshake])
async def test_a_fin_right_behind_the_request_for_a_stream_leaves_nothing(
    nursery: trio.Nursery, make: Callable[[str], bytes]
) -> None:
    gateway = await start_gateway(nursery)
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    for end in (Peer.close, Peer.finish, Peer.reset):
        for _ in range(10):
            peer = await gateway.connect()
            await peer.send(make(f"{STREAM}?device_ids=a"))
            await end(peer)
    await gateway.wait_connections(0)
    assert gateway.parts.hub.streams() == []
    assert gateway.statistics.subscriptions == 0
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before


# WebSocket: what the client sends


async def test_what_a_client_sends_is_read_and_ignored(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a")
    for frame in (
        client_frame(TEXT),
        client_frame(BINARY),
        client_frame(BINARY, b"\x00\xff"),
        client_frame(TEXT, "ñ".encode() * 30_000),
        client_frame(TEXT, b"in two", fin=False) + client_frame(0, b" parts"),
        client_frame(PONG, b"unasked"),
    ):
        await peer.send(frame)
    await peer.send(client_frame(PING, b"still there?"))
    assert await peer.read_frame() == Frame(PONG, b"still there?")


async def test_a_ping_between_two_messages_is_answered_between_them(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    frames = []
    for number in range(20):
        await gateway.publish("a", N=number)
        await peer.send(client_frame(PING, b"%d" % number))
        frames += [await peer.read_frame(), await peer.read_frame()]
    assert [frame.opcode for frame in frames] == [TEXT, PONG] * 20
    assert numbers_in(frames) == list(range(20))


async def test_a_close_of_the_client_is_answered_and_nothing_follows(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    await peer.send(close_frame(1000))
    for number in range(50):
        await gateway.publish("a", N=number)
    frames = await peer.read_frames_to_end()
    assert frames[-1] == Frame(CLOSE, b"\x03\xe8")
    assert numbers_in(frames) == list(range(len(frames) - 1))
    await peer.close()
    await gateway.wait_connections(0)
    assert gateway.statistics.closed[CloseReason.CLIENT] == 1


async def test_a_message_that_is_too_large_is_a_1009_and_the_end(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await peer.send(client_frame(TEXT, b"x" * 65_536))
    await peer.send(client_frame(TEXT, b"x" * 65_537))
    frames = await peer.read_frames_to_end()
    assert [frame.code for frame in frames] == [1009]
    await peer.close()
    await gateway.wait_connections(0)


async def test_a_message_without_end_is_not_kept(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    head = handshake(f"{STREAM}?device_ids=a") + client_frame(BINARY, b"x", fin=False)
    with PumpingPeer(gateway.port, head, client_frame(0, b"x" * 65_000, fin=False)) as rude:
        nursery.start_soon(rude.pump)
        with trio.fail_after(DEADLINE_S):
            await rude.has_ended.wait()
    await gateway.wait_streams(0)
    await gateway.wait_connections(0)


async def test_fragments_without_content_are_not_kept(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    inboxes: list[WebSocketInbox] = []

    def make_inbox(*arguments: object, **named: object) -> WebSocketInbox:
        inboxes.append(WebSocketInbox(*arguments, **named))  # type: ignore[arg-type]  # passed on
        return inboxes[0]

    monkeypatch.setattr(connection, "WebSocketInbox", make_inbox)
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await peer.send(client_frame(TEXT, b"", fin=False) + client_frame(0, b"", fin=False) * 10_000)
    await peer.send(client_frame(PING, b"1"))
    assert await peer.read_frame() == Frame(PONG, b"1")
    (inbox,) = inboxes
    assert inbox._parts == [""]


async def test_deflate_is_never_negotiated(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    peer = await gateway.connect()
    head = await peer.open_websocket("a", offer)
    assert "sec-websocket-extensions" not in head.headers
    # a frame that claims to be compressed is a breach of the protocol: RFC 6455 §5.2
    await peer.send(b"\xc1" + client_frame(TEXT, b"x")[1:])
    assert [frame.code for frame in await peer.read_frames_to_end()] == [1002]


async def test_on_the_stock_server_deflate_is_negotiated() -> None:
    async with trio.open_nursery() as nursery:
        peer = await (await start_stock_gateway(nursery)).connect()
        head = await peer.open_websocket("a", "Sec-WebSocket-Extensions: permessage-deflate")
        assert head.headers["sec-websocket-extensions"] == "permessage-deflate"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (client_frame(0x3, b"reserved"), 1002),
        (client_frame(0, b"continues nothing"), 1002),
        (client_frame(PING, b"x" * 126), 1002),
        (client_frame(TEXT, b"\xff\xff"), 1007),
        (b"\x81\x05hello", 1002),
    ],
    ids=["opcode", "continuation", "long control", "not UTF-8", "unmasked"],
)
async def test_a_breach_of_the_protocol_is_told_by_its_code(
    nursery: trio.Nursery, data: bytes, code: int
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await peer.send(data)
    assert [frame.code for frame in await peer.read_frames_to_end()] == [code]
    await peer.close()
    await gateway.wait_connections(0)


async def test_a_flood_is_a_1008_and_the_end(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"client_messages_per_s": 5})
    peer = await gateway.connect()
    await peer.open_websocket("a")
    await peer.send(HELLO * 5_000)
    assert [frame.code for frame in await peer.read_frames_to_end()] == [1008]
    await peer.close()
    await gateway.wait_connections(0)
    assert gateway.statistics.closed[CloseReason.FLOOD] == 1


async def test_a_flood_of_one_who_reads_nothing_ends_too(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"client_messages_per_s": 5})
    head = handshake(f"{STREAM}?device_ids=a")
    with PumpingPeer(gateway.port, head, HELLO * 1000) as rude:
        nursery.start_soon(rude.pump)
        with trio.fail_after(DEADLINE_S):
            await rude.has_ended.wait()
    await gateway.wait_connections(0)
    assert gateway.statistics.closed[CloseReason.FLOOD] == 1


# Slow, stalled, vanished


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_peer_that_never_reads_is_closed_and_counted(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery, stream={"stall_s": 0.5})
    peer = await StalledPeer.connect(gateway.port)
    make = handshake if transport == "websocket" else request_head
    await peer.send(make(f"{STREAM}?device_ids=a"))
    await gateway.wait_streams(1)
    healthy = await gateway.connect()
    await healthy.open_websocket("a")
    await gateway.wait_streams(2)
    published = 0
    with trio.fail_after(DEADLINE_S):
        while len(gateway.parts.hub.streams()) == 2:
            await gateway.publish("a", size=1000, N=published)
            assert numbers_in([await healthy.read_frame()]) == [published]
            published += 1
            await trio.sleep(0.001)
    assert gateway.statistics.closed[CloseReason.STALLED] == 1
    await gateway.wait_connections(1)
    frames = await _rest_of(peer, transport)
    assert numbers_in(frames) == list(range(len(numbers_in(frames))))
    assert all(frame.opcode != CLOSE for frame in frames), "it would not have read it"
    peer.forget()


async def _rest_of(peer: Peer, transport: str) -> list[Frame]:
    """What a stalled client finds when it reads at last, up to where it was cut."""
    frames = []
    try:
        if transport == "websocket":
            await peer.read_head()
            while True:
                frames.append(await peer.read_frame())
    except (AssertionError, trio.BrokenResourceError):
        pass  # the cut, anywhere
    return frames


@pytest.mark.slow
async def test_a_peer_that_vanished_is_closed_and_counted(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"stall_s": 0.5})
    peer = await VanishedPeer.connect(gateway.port)
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    peer.vanish()
    await gateway.publish("a", N=1)
    await gateway.wait_streams(0)
    await gateway.wait_connections(0)
    assert gateway.statistics.closed[CloseReason.STALLED] == 1
    peer.forget()


@pytest.mark.slow
async def test_a_slow_peer_loses_messages_and_is_never_cut(nursery: trio.Nursery) -> None:
    """With TCP_USER_TIMEOUT the kernel cut it, though it took some bytes all the time."""
    gateway = await start_gateway(nursery, stream={"stall_s": 1.5, "buffer_messages": 5})
    peer = await DribblingPeer.connect(gateway.port)
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    published = 0
    received = bytearray()
    with trio.fail_after(DEADLINE_S):
        until_s = trio.current_time() + 4
        while trio.current_time() < until_s or sum(gateway.statistics.dropped.values()) < 20:
            await gateway.publish("a", size=2000, N=published)
            published += 1
            # far less than comes; it finds whole frames in their order all the same
            for _ in range(500):
                received += await peer.read_byte()
    assert len(gateway.parts.hub.streams()) == 1
    numbers = [
        int(part.split(b"}")[0].split(b",")[0]) for part in bytes(received).split(b'"N":')[1:]
    ]
    assert numbers == sorted(set(numbers))
    statistics = gateway.statistics
    assert statistics.offered == published
    assert published == (
        statistics.delivered + sum(statistics.dropped.values()) + statistics.waiting
    )
    peer.forget()


async def test_a_slow_pinger_is_heard_while_it_is_behind(nursery: trio.Nursery) -> None:
    """Its Close frame is answered though it never catches up."""
    gateway = await start_gateway(nursery, stream={"buffer_messages": 5})
    peer = await gateway.connect(receive_buffer_bytes=4096)
    await peer.open_websocket("a")
    await gateway.wait_streams(1)
    async with trio.open_nursery() as publishing:

        @publishing.start_soon
        async def publish() -> None:
            number = 0
            while True:
                await gateway.publish("a", size=1000, N=number)
                number += 1
                await trio.lowlevel.checkpoint()

        await trio.sleep(0.1)
        await peer.send(client_frame(PING, b"1") + close_frame(1000))
        frames = await peer.read_frames_to_end()
        publishing.cancel_scope.cancel()
    assert Frame(PONG, b"1") in frames
    assert frames[-1].code == 1000


# Garbage


async def test_garbage_ends_in_its_own_connection(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(nursery, http={"read_head_timeout": 0.2})
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    for seed in range(60):
        peer = await RudePeer.connect(gateway.port)
        opening, data = [
            (b"", peer.garbage(seed)),
            (b"", peer.garbage(seed) + b"\n\n"),
            (b"", peer.mangled(request_head(STATS), seed)),
            (b"", peer.mangled(handshake(f"{STREAM}?device_ids=a") + HELLO, seed)),
            (handshake(f"{STREAM}?device_ids=a"), peer.garbage(seed)),
            (handshake(f"{STREAM}?device_ids=a"), peer.mangled(HELLO * 3, seed)),
        ][seed % 6]
        try:
            await peer.send(opening + data)
            await peer.finish()
            await peer.read_end()
        except trio.BrokenResourceError:
            pass  # what is cut with our bytes unread is a reset
        peer.forget()
    await gateway.wait_connections(0)
    await assert_serves(gateway)
    await gateway.wait_connections(0)
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert gateway.parts.hub.streams() == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# One client's bytes are never another's


async def _end_with_close_frame(peer: Peer) -> None:
    await peer.send(close_frame(1000))


async def _end_with_too_large(peer: Peer) -> None:
    await peer.send(client_frame(TEXT, b"x" * 70_000))


async def _end_with_breach(peer: Peer) -> None:
    await peer.send(b"\xff\xff\xff\xff")


ENDINGS: list[Callable[[Peer], Awaitable[None]]] = [
    Peer.close,
    Peer.reset,
    Peer.finish,
    _end_with_close_frame,
    _end_with_too_large,
    _end_with_breach,
]


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_descriptor_used_again_carries_nothing_of_its_last_client(
    nursery: trio.Nursery, end: Callable[[Peer], Awaitable[None]], transport: str
) -> None:
    """Close, accept and publish in one tick, again and again: the number of the descriptor is
    handed to the next client at once, and each client parses every byte that it gets."""
    gateway = await start_gateway(nursery)
    for turn in range(12):
        leaving = await gateway.connect()
        old = f"old{turn}"
        if transport == "websocket":
            await leaving.open_websocket(old)
        else:
            await leaving.open_sse(old)
        await gateway.wait_streams(1)
        await end(leaving)
        for number in range(3):
            await gateway.publish(old, size=300, N=number)
            coming = await gateway.connect()
            await gateway.publish(old, size=300, N=number)
            response = await coming.request(f"{STREAM}?device_ids=")
            assert response.status == 400
            assert message_of(response.body).startswith("Debe especificar")
            await coming.close()
        leaving.forget()
        await gateway.wait_streams(0)


@pytest.mark.slow
async def test_a_hammered_connection_keeps_every_frame_whole(nursery: trio.Nursery) -> None:
    """Pings without pause, a slow reader, 50,000 messages: every byte is parsed, and what
    lacks is what the gaps say, where they say it."""
    total = 50_000
    gateway = await start_gateway(
        nursery, stream={"buffer_messages": 50, "client_messages_per_s": 1_000_000}
    )
    peer = await gateway.connect(receive_buffer_bytes=16_384)
    await peer.open_websocket("a,b")
    await gateway.wait_streams(1)
    pongs: list[bytes] = []
    #: The last message of each device, and how many after it the gaps told of.
    last, told = {"a": -2, "b": -1}, {"a": 0, "b": 0}
    received, last_sequence = 0, 0
    is_published = trio.Event()

    async def hammer() -> None:
        number = 0
        while not is_published.is_set():
            await peer.send(client_frame(PING, b"%d" % number) + HELLO)
            number += 1
            await trio.lowlevel.checkpoint()
        await peer.send(close_frame(1000))

    async def publish() -> None:
        for number in range(0, total, 25):
            await gateway.publish_payloads(
                [
                    f'{{"DEVICE_ID":"{"ab"[n % 2]}","N":{n},"X":"{"x" * (n % 700)}"}}'.encode()
                    for n in range(number, number + 25)
                ]
            )
            await trio.lowlevel.checkpoint()
        is_published.set()

    async with trio.open_nursery() as hammering:
        hammering.start_soon(hammer)
        hammering.start_soon(publish)
        with trio.fail_after(6 * DEADLINE_S):
            while (frame := await peer.read_frame()).opcode != CLOSE:
                if frame.opcode == PONG:
                    pongs.append(frame.payload)
                elif b'"event":"gap"' in frame.payload[:20]:
                    gap = json.loads(frame.payload)["data"]
                    assert gap["reason"] == "buffer_full"
                    told[gap["device_id"]] += gap["dropped"]
                else:
                    message = json.loads(frame.payload)
                    data = message["data"]["data"]
                    number, device_id = data["N"], data["DEVICE_ID"]
                    assert data["X"] == "x" * (number % 700)
                    assert (number - last[device_id]) // 2 - 1 == told[device_id]
                    last[device_id], told[device_id] = number, 0
                    sequence = int(message["id"].rpartition("-")[2])
                    assert sequence > last_sequence
                    last_sequence = sequence
                    received += 1
                if len(pongs) % 50 == 1:
                    await trio.sleep(0.0005)  # slow
    assert await peer.read_end() == b""
    assert pongs == [b"%d" % number for number in range(len(pongs))]
    statistics = gateway.statistics
    assert statistics.offered == total
    assert statistics.offered == statistics.delivered + sum(statistics.dropped.values())
    assert 0 < received <= statistics.delivered


# Descriptors


async def test_every_ending_gives_its_descriptor_back(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    await assert_serves(gateway)
    await gateway.wait_connections(0)
    before = len(os.listdir("/proc/self/fd"))
    for end in ENDINGS:
        for transport in ("websocket", "sse"):
            peer = await gateway.connect()
            if transport == "websocket":
                await peer.open_websocket("a")
            else:
                await peer.open_sse("a")
            await gateway.wait_streams(1)
            await end(peer)
            if transport == "sse" and end not in (Peer.close, Peer.reset, Peer.finish):
                await peer.close()
            await gateway.wait_streams(0)
            peer.forget()
    await gateway.wait_connections(0)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_peer_that_is_reset_before_it_is_served_is_no_error(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(nursery)
    for _ in range(50):
        sock = socket.create_connection(("127.0.0.1", gateway.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    await assert_serves(gateway)
    await gateway.wait_connections(0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
