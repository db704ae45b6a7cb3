"""The stream as Server-Sent Events."""

from __future__ import annotations

import json

import pytest
import trio

from tests.event_stream import Dispatched, EventStream
from tests.gateway import STREAM, start_gateway, start_stock_gateway
from tests.peer import request_head
from tracker.domain.event import reconnect
from tracker.domain.reasons import CloseReason

TARGET = f"{STREAM}?device_ids=a"


def id_behind(position: str, count: int) -> bytes:
    """The id of the message that is the `count`th behind `position`."""
    life, _, number = position.rpartition("-")
    return f"{life}-{int(number) + count}".encode()


async def test_the_headers_keep_proxies_from_buffering(nursery: trio.Nursery) -> None:
    peer = await (await start_gateway(nursery)).connect()
    head = await peer.open_sse("a")
    assert head.status == 200
    del head.headers["date"]
    assert head.headers == {
        "content-type": "text/event-stream",
        "cache-control": "no-cache, no-transform",
        "x-accel-buffering": "no",
        "transfer-encoding": "chunked",
    }


async def test_head_answers_the_headers_and_ends(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    response = await peer.request(TARGET, method="HEAD")
    assert (response.status, response.headers["content-type"]) == (200, "text/event-stream")
    # RFC 9110 §8.6: what GET would send has no length
    assert "content-length" not in response.headers
    assert (await peer.request(TARGET, method="HEAD")).status == 200, "the connection lives on"
    assert gateway.parts.hub.streams() == []
    assert (await peer.request(STREAM, method="HEAD")).status == 400


async def test_each_event_is_a_whole_chunk(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_sse("a")
    await gateway.wait_streams(1)
    position = await peer.read_position()
    await gateway.publish_payloads([b'{"timestamp":1,"data":{"DEVICE_ID":"a"}}'])
    assert await peer.read_chunk() == (
        b'event: message\nid: %b\ndata: {"timestamp":1,"data":{"DEVICE_ID":"a"}}\n\n'
        % id_behind(position, 1)
    )


async def test_a_pretty_printed_payload_stays_one_event(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_sse("a")
    await gateway.wait_streams(1)
    pretty = json.dumps({"timestamp": 1, "data": {"DEVICE_ID": "a", "X": "\r\n"}}, indent=2)
    await gateway.publish_payloads([pretty.encode(), pretty.replace("\n", "\r\n").encode()])
    stream = EventStream()
    while len(stream.events) < 2:
        stream.feed(await peer.read_chunk())
    assert [json.loads(event.data) for event in stream.events] == [json.loads(pretty)] * 2


async def test_an_http_10_client_gets_the_events_bare_and_the_end_with_the_connection(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.send(request_head(TARGET, version="1.0"))
    head = await peer.read_head()
    assert head.status == 200
    assert "transfer-encoding" not in head.headers
    await gateway.wait_streams(1)
    await gateway.publish_payloads([b'{"timestamp":1,"data":{"DEVICE_ID":"a"}}'] * 2)
    (stream,) = gateway.parts.hub.streams()
    stream.close(CloseReason.SHUTDOWN)
    events = await peer.read_end()
    position = events.partition(b"\n\n")[0].removeprefix(b"id: ").decode()
    assert events == b"id: %b\n\n" % position.encode() + b"".join(
        b'event: message\nid: %b\ndata: {"timestamp":1,"data":{"DEVICE_ID":"a"}}\n\n'
        % id_behind(position, count)
        for count in (1, 2)
    )


async def test_a_stream_that_the_gateway_closes_ends_as_a_response_does(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    await peer.open_sse("a")
    await gateway.wait_streams(1)
    await peer.read_position()
    (stream,) = gateway.parts.hub.streams()
    stream.post(reconnect(1500, "shutdown"))
    stream.close(CloseReason.SHUTDOWN)
    events = EventStream()
    while chunk := await peer.read_chunk():
        events.feed(chunk)
    assert await peer.read_end() == b""
    assert events.retry_ms == 1500
    assert events.events == [Dispatched("reconnect", '{"after_ms":1500,"reason":"shutdown"}')]
    assert events.is_at_rest


async def test_a_client_that_comes_during_the_drain_is_sent_away_at_once(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    gateway.parts.readiness.stop()
    peer = await gateway.connect()
    await peer.open_sse("a")
    events = EventStream()
    while chunk := await peer.read_chunk():
        events.feed(chunk)
    assert [event.type for event in events.events] == ["reconnect"]
    assert events.retry_ms is not None
    assert await peer.read_end() == b""
    assert gateway.statistics.closed[CloseReason.SHUTDOWN] == 1


async def test_heartbeats_are_comments(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(
        nursery, stream={"heartbeat_s": 0.1, "ping_s": 1000.0}, with_ticker=True
    )
    peer = await gateway.connect()
    await peer.open_sse("a")
    await peer.read_position()
    assert [await peer.read_chunk() for _ in range(3)] == [b":\n\n"] * 3


@pytest.mark.slow
async def test_a_stream_outlives_quarts_own_timeout(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start in (start_gateway, start_stock_gateway):
        gateway = await start(nursery)
        monkeypatch.setitem(gateway.parts.web.config, "RESPONSE_TIMEOUT", 0.2)
        peer = await gateway.connect()
        await peer.open_sse("a")
        await gateway.wait_streams(1)
        await peer.read_position()
        await trio.sleep(0.6)
        await gateway.publish("a", N=1)
        assert b'"N":1' in await peer.read_chunk()
