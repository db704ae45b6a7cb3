"""One URL, two transports; errors and statistics. PROTOCOL A1, A3, A5."""

from __future__ import annotations

import json

import pytest
import trio

from tests.gateway import STREAM, Gateway, start_gateway, start_stock_gateway
from tests.peer import CLOSE, TEXT, Frame, Peer
from tracker.domain.hub import Hub

NO_DEVICE_IDS = (
    b'{"event":"error","data":{"message":'
    b'"Debe especificar al menos un device_id en los query params"}}'
)
#: Queries that name no device, and one that names too many.
EMPTY = ["", "?", "?device_ids=", "?device_ids=,%20,", "?other=a"]


async def statistics_of(peer: Peer) -> dict[str, object]:
    response = await peer.request(f"{STREAM}/stats")
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    return dict(json.loads(response.body))


@pytest.mark.parametrize("query", EMPTY)
async def test_sse_without_device_ids_is_a_400_with_the_envelope(
    nursery: trio.Nursery, query: str
) -> None:
    peer = await (await start_gateway(nursery)).connect()
    response = await peer.request(STREAM + query)
    assert (response.status, response.body) == (400, NO_DEVICE_IDS)
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("query", EMPTY)
async def test_websocket_without_device_ids_is_accepted_told_and_closed_by_1008(
    nursery: trio.Nursery, query: str
) -> None:
    peer = await (await start_gateway(nursery)).connect()
    assert (await peer.open_websocket("")).status == 101
    frames = await peer.read_frames_to_end()
    assert frames == [Frame(TEXT, NO_DEVICE_IDS), Frame(CLOSE, (1008).to_bytes(2, "big"))]


async def test_other_bad_parameters_are_told_likewise(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"max_device_ids": 2})
    peer = await gateway.connect()
    response = await peer.request(f"{STREAM}?device_ids=a,b,c")
    message = "device_ids: 3 ids, expected at most 2"
    assert (response.status, json.loads(response.body)["data"]["message"]) == (400, message)
    await peer.open_websocket("a,b,c")
    error, close = await peer.read_frames_to_end()
    assert json.loads(error.payload)["data"]["message"] == message
    assert close.code == 1008


async def test_ids_come_percent_encoded_repeated_and_folded(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_websocket("a%20b,%C3%B1&device_ids=%C3%B1,c&device_ids=%ff")
    await gateway.wait_streams(1)
    (stream,) = gateway.parts.hub.streams()
    assert list(stream.subscriptions) == ["a b", "ñ", "c", "%FF"]


async def test_statistics_begin_with_the_keys_of_the_contract(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    websocket, sse = await gateway.connect(), await gateway.connect()
    await websocket.open_websocket("a,b")
    await sse.open_sse("b")
    await gateway.wait_streams(2)
    await gateway.publish("a")
    await gateway.publish("b")
    await gateway.publish("c")
    statistics = await statistics_of(peer)
    assert list(statistics.items())[:3] == [
        ("total_messages_processed", 3),
        ("active_subscribers", 3),
        ("devices_being_monitored", 2),
    ]
    assert statistics["connections"] == {"websocket": 1, "sse": 1}
    assert statistics["messages_delivered"] == 3
    assert statistics["messages_dropped"] == 0
    assert statistics["mqtt_connected"] is False
    await websocket.close()
    await gateway.wait_streams(1)
    statistics = await statistics_of(peer)
    assert (statistics["active_subscribers"], statistics["devices_being_monitored"]) == (1, 1)


async def test_a_fault_of_ours_is_a_500_with_the_envelope(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()

    def fail(self: Hub) -> None:
        raise ZeroDivisionError("told to")

    with monkeypatch.context() as patch:
        patch.setattr(Hub, "statistics", fail)
        response = await peer.request(f"{STREAM}/stats")
    assert response.status == 500
    assert json.loads(response.body) == {
        "event": "error",
        "data": {"message": f"Internal Server Error: {STREAM}/stats"},
    }
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert (await peer.request(f"{STREAM}/stats")).status == 200


async def test_a_fault_of_ours_behind_the_handshake_is_a_1011(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()

    def fail(self: Hub, *_: object) -> None:
        raise ZeroDivisionError("told to")

    with monkeypatch.context() as patch:
        patch.setattr(Hub, "open_stream", fail)
        await peer.open_websocket("a")
        frames = await peer.read_frames_to_end()
    assert [frame.code for frame in frames] == [1011]
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert gateway.parts.hub.streams() == []


@pytest.fixture(params=["ours", "stock"])
async def either(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Gateway:
    """A gateway under our own server, and under Hypercorn's."""
    if request.param == "ours":
        return await start_gateway(nursery)
    return await start_stock_gateway(nursery)


async def test_under_either_server_both_transports_carry_the_same_messages(
    either: Gateway,
) -> None:
    websocket, sse = await either.connect(), await either.connect()
    assert (await websocket.open_websocket("a")).status == 101
    assert (await sse.open_sse("a")).headers["content-type"] == "text/event-stream"
    await either.wait_streams(2)
    raw = b'{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"a","N":1.10,"ID":%d}}'
    payloads = [raw % (10**30 + number) for number in range(50)]
    life = (await sse.read_position()).removesuffix("-0")
    ids = [f"{life}-{number}".encode() for number in range(1, 51)]
    await either.publish_payloads(payloads)
    for message_id, payload in zip(ids, payloads, strict=True):
        frame = await websocket.read_frame()
        assert frame == Frame(
            TEXT, b'{"event":"message","id":"%b","data":%b}' % (message_id, payload)
        )
    events = b""
    while events.count(b"\n\n") < 50:
        events += await sse.read_chunk()
    assert events == b"".join(
        b"event: message\nid: %b\ndata: %b\n\n" % pair for pair in zip(ids, payloads, strict=True)
    )


async def test_under_either_server_who_leaves_leaves_nothing(either: Gateway) -> None:
    for _ in range(5):
        websocket, sse = await either.connect(), await either.connect()
        await websocket.open_websocket("a")
        await sse.open_sse("a")
        await either.wait_streams(2)
        await websocket.close()
        await sse.close()
        await either.wait_streams(0)
    assert either.statistics.subscriptions == 0
