"""Operations on a live WebSocket, over real sockets. PROTOCOL B3."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.gateway import Gateway, start_gateway, start_stock_gateway
from tests.peer import BINARY, client_frame
from tests.web.client import Heard, SocketClient, open_socket
from tests.web.test_options import numbers, publish
from tracker.domain.stream import ANSWERS_LIMIT

NAMES = "subscribe or unsubscribe or options or auth or ping"

#: (operation, what the error says).
BAD: list[tuple[object, str]] = [
    ({"op": "viewport", "bbox": [1, 2, 3, 4]}, f"op: 'viewport', expected {NAMES}"),
    ({"op": 5}, f"op: 5, expected {NAMES}"),
    ({"op": None}, f"op: None, expected {NAMES}"),
    ({"op": "x" * 1000}, f"op: '{'x' * 39}…, expected {NAMES}"),
    ({"op": "subscribe"}, "subscribe: Object missing required field `device_ids`"),
    (
        {"op": "subscribe", "device_ids": "A"},
        "subscribe: Expected `array`, got `str` - at `$.device_ids`",
    ),
    (
        {"op": "subscribe", "device_ids": []},
        "subscribe: Expected `array` of length >= 1 - at `$.device_ids`",
    ),
    (
        {"op": "subscribe", "device_ids": ["B", ""]},
        "subscribe: Expected `str` of length >= 1 - at `$.device_ids[1]`",
    ),
    (
        {"op": "subscribe", "device_ids": [1.5]},
        "subscribe: Expected `int | str`, got `float` - at `$.device_ids[0]`",
    ),
    (
        {"op": "subscribe", "device_ids": ["x" * 129]},
        "subscribe: device_ids: an id of 129 characters, expected 1 to 128",
    ),
    (
        {"op": "subscribe", "device_ids": ["1", "2", "3", "4", "5"]},
        "subscribe: device_ids: 1 ids and 5 more, expected at most 5",
    ),
    (
        {"op": "subscribe", "device_ids": ["B"], "last": 2},
        "subscribe: Expected `int` <= 1 - at `$.last`",
    ),
    (
        {"op": "subscribe", "device_ids": ["B"], "track": "soon"},
        "subscribe: track: 'soon', expected a duration such as 15m, 90s or 1h",
    ),
    (
        {"op": "subscribe", "device_ids": ["B"], "track": 1e300},
        "subscribe: track: 1e+300, expected 0 to 1e+06 seconds",
    ),
    (
        '{"op":"subscribe","device_ids":["B"],"track":1e999}',
        "subscribe: Number out of range - at `$.track`",
    ),
    (
        {"op": "subscribe", "device_ids": ["B"], "until": 5},
        "subscribe: Object contains unknown field `until`",
    ),
    ({"op": "unsubscribe"}, "unsubscribe: Object missing required field `device_ids`"),
    (
        {"op": "options", "mode": "fastest"},
        "options: mode: 'fastest', expected latest or drop_old or drop_new",
    ),
    ({"op": "options", "mode": None}, "options: Expected `str`, got `null` - at `$.mode`"),
    (
        {"op": "options", "mode": "latest", "max_rate": 0},
        "options: max_rate: 0, expected 0.001 to 1000 messages a second",
    ),
    ({"op": "options", "max_rate": 1, "ping": 1}, "options: ping: 1, expected 5 to 300 seconds"),
    ({"op": "auth", "token": "x"}, "auth: token: not configured here, expected no token"),
    ({"op": "auth"}, "auth: Object missing required field `token`"),
    ({"op": "ping", "x": 1}, "ping: Object contains unknown field `x`"),
    ({"op": "ping", "ref": 1.5}, "ping: Expected `int | str | null`, got `float` - at `$.ref`"),
    ({"op": "ping", "ref": "x" * 129}, "ping: Expected `str` of length <= 128 - at `$.ref`"),
    (
        '{"op":"ping","ref":' + "9" * 5000 + "}",
        "ping: Integer value out of range - at `$.ref`",
    ),
]

#: What is no operation: old clients may send anything.
IGNORED = [
    *("", "hello", "{", "[]", "null", '"op"', "{}", '{"ref":1}', '{"event":"ping"}'),
    *('{"op":"ping"', '{"op":"ping","x":' + "[" * 5000, '{"op":"ping","ref":"\\ud800"}'),
]


async def start(nursery: trio.Nursery, **stream: Any) -> Gateway:
    return await start_gateway(
        nursery, stream={"client_messages_per_s": 1000, "max_device_ids": 5, **stream}
    )


@pytest.mark.parametrize(("operation", "message"), BAD, ids=range(len(BAD)))
async def test_a_bad_operation_names_its_field_and_costs_nothing(
    nursery: trio.Nursery, operation: object, message: str
) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A")
    assert await client.ask(operation) == Heard("error", {"message": message})
    if isinstance(operation, dict) and "ref" not in operation:
        error = {"message": message, "ref": "r-1"}
        assert await client.ask({**operation, "ref": "r-1"}) == Heard("error", error)
    (stream,) = gateway.parts.hub.streams()
    assert (list(stream.subscriptions), stream.overflow.value) == (["A"], "drop_new")
    await publish(gateway, 1)
    assert (await client.hear()).number == 1


async def test_what_is_no_operation_is_ignored(nursery: trio.Nursery) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A")
    await client.say(*IGNORED)
    await client.peer.send(client_frame(BINARY, b'{"op":"ping"}') + client_frame(BINARY, b""))
    assert (await client.ask({"op": "ping", "ref": 7})).data["ref"] == 7


@pytest.mark.parametrize("ref", [0, 1, -5, 2**70, "", "a ref", "x" * 128, None])
async def test_an_answer_carries_its_ref(nursery: trio.Nursery, ref: object) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A")
    position = str(gateway.parts.hub.position)
    expected = {"op": "ping", **({} if ref is None else {"ref": ref}), "position": position}
    assert await client.ask({"op": "ping", "ref": ref}) == Heard("ack", expected)


async def test_subscribe_adds_devices(nursery: trio.Nursery) -> None:
    gateway = await start(nursery)
    await publish(gateway, 1, device_id="5")
    client = await open_socket(gateway, "A")
    ack = await client.ask({"op": "subscribe", "device_ids": ["A", "B", 5, "5"], "ref": 1})
    position = str(gateway.parts.hub.position)
    assert ack == Heard("ack", {"op": "subscribe", "ref": 1, "position": position})
    assert gateway.statistics.subscriptions == 3
    await publish(gateway, 2, device_id="5")
    await publish(gateway, 3, device_id="A")
    assert numbers(await client.hear_many(2)) == [("message", 2), ("message", 3)]


async def test_last_and_track_apply_to_a_late_subscribe_and_to_its_devices_only(
    nursery: trio.Nursery,
) -> None:
    gateway = await start(nursery)
    await publish(gateway, 1, 2, device_id="A")
    await publish(gateway, 3, 4, device_id="B")
    client = await open_socket(gateway, "A")
    operation = {"op": "subscribe", "device_ids": ["A", "B"], "last": True, "track": "15m"}
    await client.say(operation)
    await client.say({**operation, "track": 900, "ref": "again"})
    ack, *heard = await client.hear_many(4)
    assert ack.name == "ack"
    assert numbers(heard) == [("snapshot", 4), ("track", 3), ("track", 4)]
    again = await client.hear()  # none of them is new: nothing of their past
    assert again.data["ref"] == "again"
    await publish(gateway, 5, device_id="B")
    assert numbers([await client.hear()]) == [("message", 5)]


async def test_after_unsubscribe_there_is_silence(nursery: trio.Nursery) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A,B")
    ack = await client.ask({"op": "unsubscribe", "device_ids": ["A", "nobody"], "ref": 2})
    assert (ack.name, ack.data["ref"]) == ("ack", 2)
    await publish(gateway, 1, device_id="A")
    await publish(gateway, 2, device_id="B")
    assert numbers([await client.hear()]) == [("message", 2)]
    await client.ask({"op": "subscribe", "device_ids": ["A"]})
    await publish(gateway, 3, device_id="A")
    assert numbers([await client.hear()]) == [("message", 3)]
    assert gateway.statistics.offered == 2


async def test_a_stream_without_devices_left_stays_open(nursery: trio.Nursery) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A")
    await client.ask({"op": "unsubscribe", "device_ids": ["A"]})
    assert (await client.ask({"op": "ping"})).name == "ack"
    assert gateway.statistics.streams["websocket"] == 1


async def test_options_take_ids_away_and_give_them_back(nursery: trio.Nursery) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A")
    for change, has_ids in (
        ({"mode": "latest"}, False),
        ({"mode": "drop_old"}, True),
        ({"max_rate": 1000}, False),
        ({"max_rate": None}, True),
        ({"mode": "latest", "max_rate": 1000}, False),
        ({"mode": "drop_new", "max_rate": None}, True),
        ({}, True),
    ):
        ack = await client.ask({"op": "options", **change})
        assert (ack.name, "position" in ack.data) == ("ack", has_ids)
        await publish(gateway, 1)
        assert bool((await client.hear()).id) == has_ids
        await trio.sleep(0.002)  # a token comes back


async def test_ping_may_be_asked_for_and_given_up(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, with_ticker=True)
    client = await open_socket(gateway, "A")
    (stream,) = gateway.parts.hub.streams()
    await client.ask({"op": "options", "ping": 5})
    stream.ping_due_s -= 5.0
    assert (await client.hear()).name == "ping"
    await client.ask({"op": "options", "ping": None})
    assert (stream.ping_s, gateway.parts.hub.pinged_apart) == (None, {})


async def test_the_position_of_an_ack_resumes_behind_all_that_was_told(
    nursery: trio.Nursery,
) -> None:
    gateway = await start(nursery)
    client = await open_socket(gateway, "A")
    await publish(gateway, 1)
    await client.hear()
    await publish(gateway, 2, device_id="B")
    ack = await client.ask({"op": "ping"})
    await client.leave()
    await publish(gateway, 3)
    again = await open_socket(gateway, f"A&last_event_id={ack.data['position']}")
    resume, message = await again.hear_many(2)
    assert (resume.data["status"], resume.data["missed"], message.number) == ("continued", 1, 3)


async def test_too_many_operations_end_it(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, stream={"client_messages_per_s": 5})
    client = await open_socket(gateway, "A")
    await client.say(*[{"op": "ping", "ref": n} for n in range(30)])
    *answers, end = await client.hear_to_end()
    assert [answer.data["ref"] for answer in answers] == list(range(10))  # the burst: 2 s
    assert end == Heard("end", 1008)


@pytest.mark.slow
async def test_while_64_answers_wait_the_client_is_not_read(nursery: trio.Nursery) -> None:
    gateway = await start(nursery, client_messages_per_s=1_000_000)
    client = await open_socket(gateway, "A", receive_buffer_bytes=4096)
    (stream,) = gateway.parts.hub.streams()
    asked = 0
    # Until nothing more is taken: what lies between us and the server is bounded.
    with trio.move_on_after(20.0) as taking:
        while not taking.cancelled_caught:
            operation = json.dumps({"op": "ping", "ref": f"{asked}-{'x' * 100}"})
            with trio.move_on_after(1.0) as sending:
                await client.peer.stream.send_all(client_frame(0x1, operation.encode()))
            if sending.cancelled_caught:
                break
            asked += 1
            assert stream.queue.events_waiting <= ANSWERS_LIMIT
    assert not taking.cancelled_caught
    assert not stream.outbox.writable
    refs = [int((await client.hear()).data["ref"].partition("-")[0]) for _ in range(asked)]
    assert refs == list(range(asked))


async def test_operations_behind_a_stock_server(nursery: trio.Nursery) -> None:
    gateway = await start_stock_gateway(nursery)
    await publish(gateway, 1, 2, device_id="B")
    peer = await gateway.connect()
    client = SocketClient(peer)
    await client.open("A")
    await gateway.wait_streams(1)
    await client.say({"op": "subscribe", "device_ids": ["B"], "last": 1, "ref": 1})
    ack, snapshot = await client.hear_many(2)
    assert (ack.name, numbers([snapshot])) == ("ack", [("snapshot", 2)])
    error = await client.ask({"op": "options", "mode": "x", "ref": 2})
    assert (error.name, error.data["ref"]) == ("error", 2)
    await publish(gateway, 3, device_id="B")
    assert numbers([await client.hear()]) == [("message", 3)]
    await client.say(*[{"op": "ping"}] * 200)
    assert (await client.hear_to_end())[-1] == Heard("end", 1008)
