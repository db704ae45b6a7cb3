"""`/api/v1/stream/connections`: who is connected, the slowest first."""

from __future__ import annotations

import json
from typing import Any

import trio

from tests.gateway import Gateway, start_gateway
from tests.web.client import open_client
from tests.web.test_options import publish
from tests.web.test_session import flood, open_slow

PATH = "/api/v1/stream/connections"


async def listed(gateway: Gateway) -> dict[str, Any]:
    response = await (await gateway.connect()).request(PATH)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    answer: dict[str, Any] = json.loads(response.body)
    return answer


async def test_it_is_off_by_default(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    response = await (await gateway.connect()).request(PATH)
    assert response.status == 404
    assert json.loads(response.body)["data"]["message"] == (
        "the list of connections is off here: set `api.connections = true` to have it"
    )


async def test_it_tells_of_each_client(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api={"connections": True})
    assert await listed(gateway) == {"connections": [], "total": 0}
    await open_client(gateway, "websocket", "A,B", "User-Agent: fleet-screen/2")
    await open_client(gateway, "sse", "A&mode=latest")
    await publish(gateway, 1)
    answer = await listed(gateway)
    for connection in answer["connections"]:
        assert 0 <= connection.pop("age_s") < 60
        assert connection.pop("address").startswith("127.0.0.1")
        del connection["seat"]
    idle = {
        "is_live": True,
        "lag_s": 0.0,
        "waiting": 0,
        "waiting_bytes": 0,
        "delivered": 1,
        "replayed": 0,
        "dropped": 0,
        "overflows": 0,
    }
    socket = {"transport": "websocket", "user_agent": "fleet-screen/2", "devices": 2}
    events = {"transport": "sse", "user_agent": "", "devices": 1}
    assert answer == {
        "connections": [
            {**socket, "mode": "drop_new", **idle},
            {**events, "mode": "latest", **idle},
        ],
        "total": 2,
    }


async def test_the_slowest_comes_first_with_what_it_lost(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(
        nursery, api={"connections": True}, stream={"buffer_messages": 20}
    )
    await open_client(gateway, "sse", "B")
    slow = await open_slow(gateway, "websocket")
    await open_client(gateway, "websocket", "B")
    await flood(gateway)
    first, *others = (await listed(gateway))["connections"]
    assert (first["waiting"], first["overflows"], first["transport"]) == (20, 1, "websocket")
    assert first["lag_s"] > 0
    assert first["delivered"] + first["waiting"] + first["dropped"] == 1500
    assert [each["dropped"] for each in others] == [0, 0]
    await slow.hear_until(lambda heard: heard.name == "gap")
    first, *_ = (await listed(gateway))["connections"]
    assert (first["waiting"], first["lag_s"]) == (0, 0.0)


async def test_a_replay_that_is_under_way_is_not_live(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(
        nursery, api={"connections": True}, stream={"history_messages": 5000}
    )
    await flood(gateway)
    epoch = gateway.parts.hub.epoch
    client = await open_slow(gateway, "sse", f"A&last_event_id={epoch}-0")
    (connection,) = (await listed(gateway))["connections"]
    assert connection["is_live"] is False
    await client.hear_many(1501)
    (connection,) = (await listed(gateway))["connections"]
    assert (connection["is_live"], connection["replayed"]) == (True, 1500)


async def test_a_user_agent_is_shown_as_far_as_a_table_has_room(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery, api={"connections": True})
    await open_client(gateway, "sse", "A", f"User-Agent: {'x' * 10_000}")
    (connection,) = (await listed(gateway))["connections"]
    assert connection["user_agent"] == "x" * 200
