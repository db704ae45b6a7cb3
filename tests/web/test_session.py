"""How streams end, and what an operator's choice about slow clients does, over real sockets."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.gateway import DEADLINE_S, Gateway, payload_of, start_gateway, start_stock_gateway
from tests.web.client import EventsClient, Heard, SocketClient, StreamClient, open_client
from tests.web.test_options import numbers, on_each_transport, publish
from tracker.domain.reasons import CloseReason
from tracker.server.connection import Connection

#: Far beyond what the kernel takes for a client that does not read.
_MESSAGES = 1500
_SIZE = 1000


async def flood(gateway: Gateway, count: int = _MESSAGES, *, first: int = 1) -> None:
    """Numbered messages of A, more than a client that does not read can take."""
    for start in range(first, first + count, 50):
        numbers = range(start, min(start + 50, first + count))
        await gateway.publish_payloads([payload_of("A", size=_SIZE, N=n) for n in numbers])


async def open_slow(gateway: Gateway, transport: str, query: str = "A") -> StreamClient:
    return await open_client(gateway, transport, query, receive_buffer_bytes=4096)


async def start(nursery: trio.Nursery, **stream: Any) -> Gateway:
    return await start_gateway(nursery, stream={"buffer_messages": 20, **stream})


def is_last(heard: Heard) -> bool:
    return heard.name == "message" and heard.number == _MESSAGES + 1


@on_each_transport
async def test_a_slow_client_is_told_the_very_number(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start(nursery)
    client = await open_slow(gateway, transport)
    await flood(gateway)
    first = await client.hear_until(lambda heard: heard.name == "gap")
    await publish(gateway, _MESSAGES + 1)
    heard = first + await client.hear_until(is_last)
    expected = 1
    for each in heard:
        if each.name == "gap":
            assert each.data["device_id"] == "A"
            assert each.data["reason"] == "buffer_full"
            expected += each.data["dropped"]
        else:
            assert (each.name, each.number) == ("message", expected)
            expected += 1
    assert expected == _MESSAGES + 2
    statistics = gateway.statistics
    gaps = [each.data["dropped"] for each in heard if each.name == "gap"]
    assert statistics.gaps == len(gaps) >= 1
    assert sum(statistics.dropped.values()) == sum(gaps)
    assert statistics.offered == statistics.delivered + sum(gaps) == _MESSAGES + 1


@on_each_transport
async def test_a_healthy_neighbour_notices_nothing(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start(nursery)
    await open_slow(gateway, transport)
    client = await open_client(gateway, transport, "A")
    for number in range(1, _MESSAGES + 1, 50):
        await flood(gateway, 50, first=number)
        heard = await client.hear_many(50)
        assert numbers(heard) == [("message", n) for n in range(number, number + 50)]
    assert gateway.statistics.gaps == 1


@on_each_transport
async def test_where_the_operator_cuts_slow_clients(nursery: trio.Nursery, transport: str) -> None:
    gateway = await start(nursery, overflow="disconnect")
    client = await open_slow(gateway, transport)
    await flood(gateway)
    heard = await client.hear_to_end()
    if transport == "sse":
        message = "too slow: messages had to be dropped"
        assert heard[-2:] == [Heard("closed", {"code": 4408, "message": message}), Heard("end")]
    else:
        assert heard[-1] == Heard("end", 4408)
        assert not any(each.name == "closed" for each in heard)
    await gateway.wait_streams(0)
    assert gateway.statistics.closed[CloseReason.SLOW] == 1


async def test_nothing_stands_behind_the_closed_event(nursery: trio.Nursery) -> None:
    """Whatever is published while the client takes what waited for it."""
    gateway = await start(nursery, overflow="disconnect", buffer_messages=200)
    client = await open_slow(gateway, "sse")
    await flood(gateway)

    async def publish_on() -> None:
        while True:
            await flood(gateway, 50)
            await trio.sleep(0.001)

    async with trio.open_nursery() as publishing:
        publishing.start_soon(publish_on)
        with trio.fail_after(DEADLINE_S):
            heard = await client.hear_to_end()
        publishing.cancel_scope.cancel()
    assert [each.name for each in heard[-2:]] == ["closed", "end"]
    assert [each.name for each in heard].count("closed") == 1


@on_each_transport
async def test_who_was_cut_comes_back_and_has_everything(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start(nursery, overflow="disconnect", history_messages=2 * _MESSAGES)
    client = await open_slow(gateway, transport)
    await flood(gateway)
    before = [each for each in await client.hear_to_end() if each.name == "message"]
    await gateway.wait_streams(0)
    again = await open_client(gateway, transport, f"A&last_event_id={before[-1].id}")
    await publish(gateway, _MESSAGES + 1)
    resume, *after = await again.hear_until(is_last)
    assert resume.data["status"] == "continued"
    assert [each.number for each in before + after] == list(range(1, _MESSAGES + 2))


@on_each_transport
async def test_a_client_that_is_too_slow_again_and_again_gets_the_latest_and_is_told(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start(nursery, latest_after_overflows=1)
    client = await open_slow(gateway, transport)
    await flood(gateway)
    heard = await client.hear_until(lambda heard: heard.name == "mode")
    assert heard[-1].data == {"mode": "latest", "reason": "too slow"}
    # The newest took the place of the one that waited.
    assert (heard[-2].number, heard[-2].id) == (_MESSAGES, "")
    await publish(gateway, _MESSAGES + 1)
    last = await client.hear()
    assert (last.number, last.id) == (_MESSAGES + 1, "")


@on_each_transport
@pytest.mark.parametrize("mode", ["drop_old", "latest"])
async def test_a_client_may_prefer_what_is_new(
    nursery: trio.Nursery, transport: str, mode: str
) -> None:
    gateway = await start(nursery)
    client = await open_slow(gateway, transport, f"A&mode={mode}")
    await flood(gateway)
    heard = await client.hear_until(
        lambda heard: heard.name == "message" and heard.number == _MESSAGES
    )
    got = [each.number for each in heard if each.name == "message"]
    assert got == sorted(set(got))
    told = sum(each.data["dropped"] for each in heard if each.name == "gap")
    if mode == "latest":
        assert (told, gateway.statistics.gaps) == (0, 0)
    else:
        assert got[-20:] == list(range(_MESSAGES - 19, _MESSAGES + 1))
        assert told == _MESSAGES - len(got)


@on_each_transport
async def test_a_stream_that_is_closed_in_the_moment_in_which_its_connection_ends(
    nursery: trio.Nursery, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start(nursery)
    end_connection = Connection._close

    def close_stream_first(connection: Connection) -> None:
        for stream in gateway.parts.hub.streams():
            stream.close(CloseReason.SHUTDOWN)
        end_connection(connection)

    monkeypatch.setattr(Connection, "_close", close_stream_first)
    client = await open_client(gateway, transport, "A")
    await client.peer.reset()
    await gateway.wait_streams(0)
    assert gateway.statistics.closed[CloseReason.SHUTDOWN] == 1
    assert (await (await gateway.connect()).request("/healthz")).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SocketClient, EventsClient])
async def test_a_slow_client_of_a_stock_server_is_told_too(
    nursery: trio.Nursery, kind: type[StreamClient]
) -> None:
    gateway = await start_stock_gateway(nursery, stream={"buffer_messages": 20})
    client = kind(await gateway.connect(receive_buffer_bytes=4096))
    await client.open("A")
    await gateway.wait_streams(1)
    # Only after a while does a send under way mean that the peer is behind.
    for first in range(1, 4001, 500):
        await flood(gateway, 500, first=first)
        await trio.sleep(0.12)
    heard = await client.hear_until(lambda heard: heard.name == "gap")
    got = [each.number for each in heard if each.name == "message"]
    assert got == list(range(1, len(got) + 1))
