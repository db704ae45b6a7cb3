"""The opt-in query parameters, on both transports, over real sockets. PROTOCOL B1, B2."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
import trio

from tests.gateway import Gateway, start_gateway
from tests.web.client import Heard, open_client, open_socket
from tracker.domain.position import Position

on_each_transport = pytest.mark.parametrize("transport", ["websocket", "sse"])

#: (query, what the error says).
BAD = [
    ("last=yes", "last: 'yes', expected 1 or 0"),
    ("last=", "last: '', expected 1 or 0"),
    ("hello=true", "hello: 'true', expected 1 or 0"),
    ("track=soon", "track: 'soon', expected a duration such as 15m, 90s or 1h"),
    ("track=-5m", "track: '-5m', expected a duration such as 15m, 90s or 1h"),
    ("track=%D9%A1s", "track: '\u0661s', expected a duration such as 15m, 90s or 1h"),
    ("track=999999999h", "track: 3.6e+12, expected 0 to 1e+06 seconds"),
    ("mode=fastest", "mode: 'fastest', expected latest or drop_old or drop_new"),
    ("mode=disconnect", "mode: 'disconnect', expected latest or drop_old or drop_new"),
    ("max_rate=often", "max_rate: 'often', expected a number"),
    ("max_rate=nan", "max_rate: nan, expected 0.001 to 1000 messages a second"),
    ("max_rate=0", "max_rate: 0, expected 0.001 to 1000 messages a second"),
    ("max_rate=-1", "max_rate: -1, expected 0.001 to 1000 messages a second"),
    ("max_rate=1e9", "max_rate: 1e+09, expected 0.001 to 1000 messages a second"),
    ("ping=inf", "ping: inf, expected 5 to 300 seconds"),
    ("ping=4.9", "ping: 4.9, expected 5 to 300 seconds"),
    ("ping=301", "ping: 301, expected 5 to 300 seconds"),
    ("ping=%00", "ping: '\\x00', expected a number"),
    (f"mode={'x' * 500}", f"mode: '{'x' * 39}…, expected latest or drop_old or drop_new"),
]


def numbers(heard: list[Heard]) -> list[tuple[str, int]]:
    return [(each.name, each.number) for each in heard]


async def publish(gateway: Gateway, *values: int, device_id: str = "A") -> None:
    """Publish one message for each value, in one batch."""
    payloads = [
        b'{"timestamp":%d,"data":{"DEVICE_ID":"%b","N":%d}}' % (n, device_id.encode(), n)
        for n in values
    ]
    await gateway.publish_payloads(payloads)


@pytest.mark.parametrize(("query", "message"), BAD, ids=[query[:20] for query, _ in BAD])
async def test_a_bad_value_is_named_on_both_transports(
    nursery: trio.Nursery, query: str, message: str
) -> None:
    gateway = await start_gateway(nursery)
    error = {"event": "error", "data": {"message": message}}
    response = await (await gateway.connect()).request(f"/api/v1/stream?device_ids=A&{query}")
    assert (response.status, json.loads(response.body)) == (400, error)
    peer = await gateway.connect()
    await peer.open_websocket(f"A&{query}")
    told, closed = await peer.read_frames_to_end()
    assert (json.loads(told.payload), closed.code) == (error, 1008)


@on_each_transport
async def test_good_values_at_their_bounds(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery)
    for query in ("max_rate=0.001", "max_rate=1000", "ping=5", "ping=300", "track=0"):
        await open_client(gateway, transport, f"A&{query}")
    for query in ("track=1.5h", "track=90", "track=90s", "track=15m", "last=0", "hello=0"):
        await open_client(gateway, transport, f"A&{query}")
    for query in ("mode=latest", "mode=drop_old", "mode=drop_new"):
        await open_client(gateway, transport, f"A&{query}")


@on_each_transport
async def test_without_a_parameter_nothing_comes_but_messages(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2)
    client = await open_client(gateway, transport, "A")
    await publish(gateway, 3)
    heard = await client.hear()
    position = Position.parse(heard.id)
    assert position is not None
    assert (heard.name, heard.number, position.sequence) == ("message", 3, 3)


async def test_on_sse_the_position_comes_first(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1)
    client = await open_client(gateway, "sse", "A")
    assert await client.hear_raw() == Heard("", None, str(gateway.parts.hub.position))


@on_each_transport
async def test_last(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2)
    await publish(gateway, 3, device_id="B")
    client = await open_client(gateway, transport, "A,B,C&last=1")
    await publish(gateway, 4)
    heard = await client.hear_many(3)
    assert numbers(heard) == [("snapshot", 2), ("snapshot", 3), ("message", 4)]
    assert [bool(each.id) for each in heard] == [False, False, True]


@on_each_transport
async def test_track(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2)
    client = await open_client(gateway, transport, "A&track=15m")
    await publish(gateway, 3)
    heard = await client.hear_many(3)
    assert numbers(heard) == [("track", 1), ("track", 2), ("message", 3)]
    assert [bool(each.id) for each in heard] == [False, False, True]


@on_each_transport
async def test_last_comes_before_track_before_live(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2)
    client = await open_client(gateway, transport, "A&track=15m&last=1&hello=1")
    await publish(gateway, 3)
    hello, *heard = await client.hear_many(5)
    assert hello.name == "hello"
    assert numbers(heard) == [("snapshot", 2), ("track", 1), ("track", 2), ("message", 3)]


@on_each_transport
async def test_hello(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery, stream={"buffer_messages": 7})
    await publish(gateway, 1)
    for query, ping_s in (("", 60.0), ("&ping=20", 20.0)):
        client = await open_client(gateway, transport, f"A&hello=1{query}")
        hello = await client.hear()
        version = hello.data.pop("version")
        assert version == gateway.parts.hub.settings.version
        position = str(gateway.parts.hub.position)
        assert hello == Heard("hello", {"ping_s": ping_s, "buffer": 7, "position": position})


@on_each_transport
async def test_a_ping_of_ones_own(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery, stream={"ping_s": 0.2}, with_ticker=True)
    client = await open_client(gateway, transport, "A&ping=5")
    (stream,) = gateway.parts.hub.streams()
    due_s = stream.ping_due_s
    other = await open_client(gateway, transport, "A")
    assert (await other.hear()).name == "ping"
    assert (await other.hear()).name == "ping"
    await publish(gateway, 1)
    assert (await client.hear()).name == "message"  # and no ping before it
    stream.ping_due_s -= 5.0
    assert await client.hear() == Heard("ping", {"type": "keep-alive"})
    assert stream.ping_due_s == due_s


async def test_a_ping_that_is_asked_for_late_is_not_made_up_for(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"ping_s": 1000.0}, with_ticker=True)
    client = await open_socket(gateway, "A")
    (stream,) = gateway.parts.hub.streams()
    stream.ping_due_s -= 3600.0  # as if it had been open for an hour
    assert (await client.ask({"op": "options", "ping": 5})).name == "ack"
    await trio.sleep(0.3)  # ticks go by
    await publish(gateway, 1)
    assert (await client.hear()).name == "message"


@pytest.mark.slow
@on_each_transport
async def test_max_rate_lets_the_newest_of_a_burst_arrive(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery, with_ticker=True)
    client = await open_client(gateway, transport, "A,B&max_rate=2")
    await publish(gateway, *range(1, 10))
    await publish(gateway, 10, device_id="B")
    heard = await client.hear_many(3)
    assert numbers(heard) == [("message", 1), ("message", 10), ("message", 9)]
    assert [each.id for each in heard] == ["", "", ""]
    # the last position that it could have come back with would be none
    statistics = gateway.statistics
    assert (statistics.delivered, sum(statistics.dropped.values())) == (3, 7)


@on_each_transport
@pytest.mark.parametrize("query", ["mode=latest", "max_rate=5"])
async def test_without_ids_a_resume_is_a_reset_with_a_snapshot(
    nursery: trio.Nursery, transport: str, query: str
) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2)
    epoch = gateway.parts.hub.epoch
    client = await open_client(gateway, transport, f"A&{query}&last_event_id={epoch}-1")
    await publish(gateway, 3)
    position = str(Position(epoch, 2))
    heard = [await client.hear_raw() for _ in range(3)]
    assert heard[0] == Heard("resume", {"status": "reset", "missed": None, "position": position})
    assert numbers(heard[1:]) == [("snapshot", 2), ("message", 3)]
    assert [each.id for each in heard] == ["", "", ""]


MALFORMED = ["x", "-", "1", "0x-1", "é", "A" * 500, "a\tb", "abc-1.5", "abc--1", "zz-9", "abc-007"]


@on_each_transport
@pytest.mark.parametrize("last_event_id", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_id_is_a_reset_in_the_query_and_in_the_header(
    nursery: trio.Nursery, transport: str, last_event_id: str
) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1)
    position = str(gateway.parts.hub.position)
    reset = Heard("resume", {"status": "reset", "missed": None, "position": position})
    queried = await open_client(gateway, transport, f"A&last_event_id={quote(last_event_id)}")
    assert await queried.hear() == reset
    assert numbers([await queried.hear()]) == [("snapshot", 1)]
    header = f"Last-Event-ID: {last_event_id}".encode().decode("latin-1")
    headed = await open_client(gateway, transport, "A", header)
    assert await headed.hear() == reset
    assert numbers([await headed.hear()]) == [("snapshot", 1)]


@on_each_transport
async def test_the_header_wins_over_the_query(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2, 3)
    epoch = gateway.parts.hub.epoch
    client = await open_client(
        gateway, transport, f"A&last_event_id={epoch}-0", f"Last-Event-ID: {epoch}-2"
    )
    resume, message = await client.hear_many(2)
    assert resume.data == {"status": "continued", "missed": 1, "position": f"{epoch}-2"}
    assert message.number == 3


async def test_an_answer_to_head_opens_nothing(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    response = await (await gateway.connect()).request(
        "/api/v1/stream?device_ids=A&last=1", method="HEAD"
    )
    assert response.status == 200
    assert sum(gateway.statistics.opened.values()) == 0
