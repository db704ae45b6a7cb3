"""HTTP/2: its streams, and what one of them may do to the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
from hypercorn.protocol.ws_stream import FrameTooLargeError
from wsproto.events import BytesMessage

from tests.gateway import STREAM, Gateway, start_gateway
from tests.http2 import Http2Client, connect_tls, tls_context
from tests.mqtt.conftest import Certificates
from tests.peer import BINARY, CLOSE, DEADLINE_S, PING, PONG, TEXT, client_frame, close_frame
from tracker.domain.event import reconnect
from tracker.domain.reasons import CloseReason
from tracker.server import connection, http2
from tracker.server.http2 import _BoundedBuffer

STATS = f"{STREAM}/stats"
WEBSOCKET = (":protocol", "websocket")


@pytest.fixture(autouse=True)
def _short_farewells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does not close its side costs a test less than two seconds."""
    monkeypatch.setattr(connection, "_LINGER_S", 0.2)
    monkeypatch.setattr(http2, "_LAST_S", 0.2)


Start = Callable[..., Awaitable[Gateway]]
Connect = Callable[..., Awaitable[Http2Client]]


@pytest.fixture
def start(nursery: trio.Nursery, certificates: Certificates) -> Start:
    """Start a gateway that speaks TLS."""

    async def start_tls(**branches: dict[str, object]) -> Gateway:
        http = {
            "certfile": str(certificates.server),
            "keyfile": str(certificates.server_key),
            **branches.pop("http", {}),
        }
        return await start_gateway(nursery, http=http, **branches)  # type: ignore[arg-type]

    return start_tls


@pytest.fixture
async def connect(certificates: Certificates) -> AsyncIterator[Connect]:
    """Connect to it with HTTP/2; the connections end with the test."""
    streams = []

    async def connect_h2(gateway: Gateway, *, window: int = 65535) -> Http2Client:
        tls = await connect_tls(gateway.port, tls_context(str(certificates.ca), "h2"))
        streams.append(tls)
        assert tls.selected_alpn_protocol() == "h2"
        client = Http2Client(tls, window=window)
        await client.start()
        return client

    yield connect_h2
    for stream in streams:
        stream.transport_stream.socket.close()


async def open_websocket(client: Http2Client, device_ids: str, *headers: tuple[str, str]) -> int:
    stream_id = await client.open_websocket(
        f"{STREAM}?device_ids={device_ids}", WEBSOCKET, *headers
    )
    assert await client.wait_status(stream_id) == 200
    return stream_id


async def assert_serves(client: Http2Client) -> None:
    """Show that the connection still carries answers."""
    status, body = await client.answer(await client.request(STATS))
    assert status == 200
    assert json.loads(body)["active_subscribers"] >= 0


async def wait_cut(client: Http2Client) -> None:
    """Wait until the server has ended the connection, with or without a word."""
    with trio.fail_after(DEADLINE_S):
        try:
            while await client.stream.receive_some(65536):
                pass
        except trio.BrokenResourceError:
            pass  # with our bytes unread it is a reset


# Requests


async def test_requests_are_answered_side_by_side(start: Start, connect: Connect) -> None:
    client = await connect(await start())
    targets = [STATS, "/healthz", "/no/where", f"{STREAM}?device_ids="]
    streams = [await client.request(target) for target in targets]
    answers = [await client.answer(stream) for stream in streams]
    assert [status for status, _ in answers] == [200, 200, 404, 400]
    assert json.loads(answers[3][1])["event"] == "error"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_other_methods_are_a_405_with_the_envelope(
    start: Start, connect: Connect, method: str
) -> None:
    client = await connect(await start())
    status, body = await client.answer(await client.request(STREAM, method=method))
    assert status == 405
    assert json.loads(body)["event"] == "error"


async def test_a_body_is_read_and_forgotten(start: Start, connect: Connect) -> None:
    client = await connect(await start())
    stream = await client.request(STREAM, method="POST", end=False)
    await client.send_data(stream, b"x" * 300_000, end=True)
    assert (await client.answer(stream))[0] == 405
    await assert_serves(client)


async def test_a_body_that_goes_on_behind_its_answer_ends_nobody(
    start: Start, connect: Connect
) -> None:
    """On Hypercorn's own class it is a KeyError, which ends every stream of the connection."""
    gateway = await start()
    client = await connect(gateway)
    sse = await client.request(f"{STREAM}?device_ids=a")
    await gateway.wait_streams(1)
    stream = await client.request(STREAM, method="POST", end=False)
    await client.wait_status(stream)
    await client.wait(lambda: stream in client.ended)
    for _ in range(5):
        await client.send_data(stream, b"x" * 10_000)
    await assert_serves(client)
    await gateway.publish("a", N=1)
    await client.wait(lambda: b'"N":1' in client.data[sse])


async def test_head_and_options_are_answered(start: Start, connect: Connect) -> None:
    client = await connect(await start())
    status, body = await client.answer(
        await client.request(f"{STREAM}?device_ids=a", method="HEAD")
    )
    assert (status, body) == (200, b"")
    assert (await client.answer(await client.request(STREAM, method="OPTIONS")))[0] == 200


async def test_a_header_list_that_is_too_large_ends_that_connection_only(
    start: Start, connect: Connect
) -> None:
    gateway = await start()
    client = await connect(gateway)
    await client.request(STATS, *[(f"x-{number}", "y" * 1000) for number in range(100)])
    await wait_cut(client)
    await assert_serves(await connect(gateway))


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "CONNECT"), (":authority", "x")],
        [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/\xff")],
    ],
    ids=["plain CONNECT", "a path beyond ASCII"],
)
async def test_what_hypercorn_cannot_bear_ends_that_connection_only(
    start: Start, connect: Connect, headers: list[tuple[str, str]]
) -> None:
    gateway = await start()
    client = await connect(gateway)
    client.connection.config.validate_outbound_headers = False
    client.connection.config.normalize_outbound_headers = False
    client.connection.send_headers(1, headers, end_stream=True)
    await client.flush()
    await wait_cut(client)
    await assert_serves(await connect(gateway))


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 9,  # DATA on stream 0
        b"\0\0\1\x01\x04\0\0\0\1\xff",  # a header block that is none
        b"\xff" * 100,  # a frame of 16 MiB
    ],
    ids=["stream 0", "no headers", "16 MiB"],
)
async def test_garbage_ends_that_connection_only(
    start: Start, connect: Connect, data: bytes
) -> None:
    gateway = await start()
    client = await connect(gateway)
    await client.stream.send_all(data)
    await wait_cut(client)
    await gateway.wait_connections(0)
    await assert_serves(await connect(gateway))


# Server-Sent Events


async def test_events_arrive_bare(start: Start, connect: Connect) -> None:
    gateway = await start()
    client = await connect(gateway)
    stream = await client.request(f"{STREAM}?device_ids=a")
    assert await client.wait_status(stream) == 200
    assert client.headers[stream]["content-type"] == "text/event-stream"
    await gateway.wait_streams(1)
    for number in range(50):
        await gateway.publish("a", N=number)
    await client.wait(lambda: client.data[stream].count(b"\n\n") == 51)
    position, *events = bytes(client.data[stream]).split(b"\n\n")[:-1]
    epoch = gateway.parts.hub.epoch.encode()
    assert position == b"id: %b-0" % epoch
    numbers = []
    for sequence, event in enumerate(events, 1):
        head, _, data = event.partition(b"\ndata: ")
        assert head == b"event: message\nid: %b-%d" % (epoch, sequence)
        numbers.append(json.loads(data)["data"]["N"])
    assert numbers == list(range(50))


@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_stream_that_the_client_resets_leaves_nothing(
    start: Start, connect: Connect, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start()
    client = await connect(gateway)
    for _ in range(5):
        if transport == "sse":
            stream = await client.request(f"{STREAM}?device_ids=a")
        else:
            stream = await open_websocket(client, "a")
        await gateway.wait_streams(1)
        client.connection.reset_stream(stream)
        await client.flush()
        await gateway.wait_streams(0)
    await assert_serves(client)
    assert gateway.statistics.closed[CloseReason.CLIENT] == 5
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_connection_that_ends_takes_its_streams_along(
    start: Start, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start()
    client = await connect(gateway)
    for number in range(5):
        await client.request(f"{STREAM}?device_ids={number}")
        await open_websocket(client, str(number))
    await gateway.wait_streams(10)
    await client.stream.transport_stream.aclose()
    await gateway.wait_streams(0)
    await gateway.wait_connections(0)
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["sse", "websocket"])
async def test_a_stream_whose_window_stays_shut_ends_alone(
    start: Start, connect: Connect, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    """TCP lives, and so do the other streams: the deadline is the stream's."""
    gateway = await start(stream={"stall_s": 0.5})
    client = await connect(gateway, window=2000)
    healthy = await client.request(f"{STREAM}?device_ids=b")
    if transport == "sse":
        await client.request(f"{STREAM}?device_ids=a")
    else:
        await open_websocket(client, "a")
    await gateway.wait_streams(2)
    client.reads = False
    with trio.fail_after(DEADLINE_S):
        while len(gateway.parts.hub.streams()) == 2:
            await gateway.publish("a", size=1000)
            await trio.sleep(0.01)
    await gateway.publish("b", N=1)
    await client.wait(lambda: b'"N":1' in client.data[healthy])
    assert gateway.statistics.closed[CloseReason.STALLED] == 1
    await assert_serves(client)
    assert [record.getMessage() for record in caplog.records if "Cola" not in record.message] == []


@pytest.mark.slow
async def test_a_window_that_opens_a_little_now_and_then_is_slow_and_never_cut(
    start: Start, connect: Connect
) -> None:
    gateway = await start(stream={"stall_s": 1.0, "buffer_messages": 10})
    client = await connect(gateway, window=500)
    stream = await client.request(f"{STREAM}?device_ids=a")
    await gateway.wait_streams(1)
    until_s = trio.current_time() + 4
    with trio.fail_after(DEADLINE_S):
        while trio.current_time() < until_s:
            for _ in range(5):
                await gateway.publish("a", size=1000)
            await client.receive()  # which opens the window by what came
            await trio.sleep(0.05)
    assert len(gateway.parts.hub.streams()) == 1
    assert sum(gateway.statistics.dropped.values()) > 0
    assert stream not in client.ended


# WebSocket: RFC 8441


async def test_a_websocket_carries_messages_pings_and_the_close(
    start: Start, connect: Connect
) -> None:
    gateway = await start()
    client = await connect(gateway)
    stream = await open_websocket(client, "a")
    await gateway.wait_streams(1)
    await gateway.publish("a", N=1)
    opcode, payload = await client.read_frame(stream)
    assert (opcode, json.loads(payload)["data"]["data"]["N"]) == (TEXT, 1)
    await client.send_data(stream, client_frame(PING, b"hello"))
    assert await client.read_frame(stream) == (PONG, b"hello")
    await client.send_data(stream, close_frame(1000))
    assert await client.read_frame(stream) == (CLOSE, b"\x03\xe8")
    await client.wait(lambda: stream in client.ended)
    await gateway.wait_streams(0)
    await assert_serves(client)


async def test_messages_come_in_order_however_many(start: Start, connect: Connect) -> None:
    gateway = await start()
    client = await connect(gateway)
    stream = await open_websocket(client, "a")
    await gateway.wait_streams(1)
    numbers = []
    for first in range(0, 500, 50):
        for number in range(first, first + 50):
            await gateway.publish("a", size=100, N=number)
        for _ in range(50):
            _, payload = await client.read_frame(stream)
            numbers.append(json.loads(payload)["data"]["data"]["N"])
    assert numbers == list(range(500))


async def test_the_answer_to_our_close_frame_ends_nobody(start: Start, connect: Connect) -> None:
    """On Hypercorn's own class it is a KeyError, which ends every stream of the connection."""
    gateway = await start()
    client = await connect(gateway)
    websocket = await open_websocket(client, "a")
    await gateway.wait_streams(1)
    (stream,) = gateway.parts.hub.streams()
    sse = await client.request(f"{STREAM}?device_ids=b")
    await gateway.wait_streams(2)
    stream.post(reconnect(1234, "shutdown"))
    stream.close(CloseReason.SHUTDOWN)
    opcode, payload = await client.read_frame(websocket)
    assert (opcode, json.loads(payload)["event"]) == (TEXT, "reconnect")
    assert await client.read_frame(websocket) == (CLOSE, (1012).to_bytes(2, "big"))
    await client.wait(lambda: websocket in client.ended)
    await client.send_data(websocket, close_frame(1012), end=True)
    await assert_serves(client)
    await gateway.publish("b", N=1)
    await client.wait(lambda: b'"N":1' in client.data[sse])


async def test_without_device_ids_the_error_comes_before_the_1008(
    start: Start, connect: Connect
) -> None:
    client = await connect(await start())
    stream = await client.open_websocket(STREAM, WEBSOCKET)
    _, payload = await client.read_frame(stream)
    assert json.loads(payload) == {
        "event": "error",
        "data": {"message": "Debe especificar al menos un device_id en los query params"},
    }
    assert await client.read_frame(stream) == (CLOSE, (1008).to_bytes(2, "big"))


async def test_deflate_is_not_negotiated(start: Start, connect: Connect) -> None:
    gateway = await start()
    client = await connect(gateway)
    stream = await open_websocket(
        client, "a", ("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
    )
    assert "sec-websocket-extensions" not in client.headers[stream]
    # a frame that claims to be compressed is a breach, and the end of the stream
    await client.send_data(stream, b"\xc1" + client_frame(TEXT, b"x")[1:])
    await client.wait(lambda: stream in client.ended)
    await gateway.wait_streams(0)
    await assert_serves(client)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_message_that_is_too_large_is_a_1009_and_the_end_of_the_stream(
    start: Start, connect: Connect, opcode: int
) -> None:
    gateway = await start()
    client = await connect(gateway)
    stream = await open_websocket(client, "a")
    await gateway.wait_streams(1)
    await client.send_data(stream, client_frame(opcode, b"x" * 60_000, fin=False))
    for _ in range(20):
        await client.send_data(stream, client_frame(0, b"x" * 60_000, fin=False))
    assert await client.read_frame(stream) == (CLOSE, (1009).to_bytes(2, "big"))
    await gateway.wait_streams(0)
    await assert_serves(client)


async def test_empty_and_binary_frames_are_no_error(start: Start, connect: Connect) -> None:
    gateway = await start()
    client = await connect(gateway)
    stream = await open_websocket(client, "a")
    for frame in (client_frame(TEXT), client_frame(BINARY), client_frame(BINARY, b"\0")):
        await client.send_data(stream, frame)
    await client.send_data(stream, client_frame(PING, b"1"))
    assert await client.read_frame(stream) == (PONG, b"1")


async def test_a_flood_is_a_1008(start: Start, connect: Connect) -> None:
    gateway = await start(stream={"client_messages_per_s": 5})
    client = await connect(gateway)
    stream = await open_websocket(client, "a")
    await gateway.wait_streams(1)
    await client.send_data(stream, client_frame(TEXT, b"x") * 100)
    assert await client.read_frame(stream) == (CLOSE, (1008).to_bytes(2, "big"))
    await gateway.wait_streams(0)
    assert gateway.statistics.closed[CloseReason.FLOOD] == 1
    await assert_serves(client)


async def test_heartbeats_and_pings_do_not_block_a_websocket(
    start: Start, connect: Connect
) -> None:
    """A heartbeat has no form here: an empty write would never leave."""
    gateway = await start()
    client = await connect(gateway)
    stream = await open_websocket(client, "a")
    await gateway.wait_streams(1)
    (opened,) = gateway.parts.hub.streams()
    for _ in range(3):
        opened.heartbeat()
    await gateway.publish("a", N=1)
    assert b'"N":1' in (await client.read_frame(stream))[1]


# Idle connections


async def test_an_idle_connection_is_closed_and_one_with_a_stream_is_not(
    start: Start, connect: Connect
) -> None:
    gateway = await start(http={"keep_alive_timeout": 0.3})
    streaming, idle = await connect(gateway), await connect(gateway)
    sse = await streaming.request(f"{STREAM}?device_ids=a")
    await assert_serves(idle)
    await gateway.wait_streams(1)
    await gateway.wait_connections(1)
    await gateway.publish("a", N=1)
    await streaming.wait(lambda: b'"N":1' in streaming.data[sse])


async def test_stop_keepalive_ends_the_idle_and_the_others_behind_their_last_stream(
    start: Start, connect: Connect
) -> None:
    gateway = await start()
    idle, streaming = await connect(gateway), await connect(gateway)
    await assert_serves(idle)
    sse = await streaming.request(f"{STREAM}?device_ids=a")
    await gateway.wait_streams(1)
    await gateway.server.stop_keepalive()
    await gateway.wait_connections(1)
    (stream,) = gateway.parts.hub.streams()
    stream.close(CloseReason.SHUTDOWN)
    await streaming.wait(lambda: sse in streaming.ended)
    await streaming.wait(lambda: streaming.terminated is not None)
    await wait_cut(streaming)
    with trio.fail_after(DEADLINE_S):
        await gateway.server.wait_empty()


# The parts


def test_a_bounded_buffer_keeps_nothing_of_what_is_too_large() -> None:
    calls: list[str] = []
    buffer = _BoundedBuffer(10, on_too_large=lambda: calls.append("too large"))
    buffer.extend(BytesMessage(data=bytearray(b"12345")))
    for _ in range(3):
        with pytest.raises(FrameTooLargeError):
            buffer.extend(BytesMessage(data=bytearray(b"x" * 20)))
        assert buffer.value is None
    assert calls == ["too large"]
