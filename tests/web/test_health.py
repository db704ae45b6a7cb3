"""What operators and their machines ask: alive, ready, metrics."""

from __future__ import annotations

import json

import trio

from tests.gateway import start_gateway


async def test_alive(nursery: trio.Nursery) -> None:
    response = await (await (await start_gateway(nursery)).connect()).request("/healthz")
    assert (response.status, json.loads(response.body)) == (200, {"alive": True})
    assert response.headers["content-type"] == "application/json"


async def test_not_ready_says_why(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer = await gateway.connect()
    response = await peer.request("/readyz")
    assert (response.status, json.loads(response.body)) == (
        503,
        {"ready": False, "reason": "MQTT: not connected to mqtt://127.0.0.1:1 yet"},
    )
    gateway.parts.readiness.stop()
    response = await peer.request("/readyz")
    assert (response.status, json.loads(response.body)) == (
        503,
        {"ready": False, "reason": "the gateway is stopping"},
    )


async def test_metrics_are_what_prometheus_reads(nursery: trio.Nursery) -> None:
    gateway = await start_gateway(nursery)
    peer, websocket = await gateway.connect(), await gateway.connect()
    await websocket.open_websocket("a,b")
    await gateway.wait_streams(1)
    await gateway.publish("a")
    response = await peer.request("/metrics")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    lines = response.body.decode().splitlines()
    for line in (
        "tracker_messages_published_total 1.0",
        "tracker_messages_delivered_total 1.0",
        "tracker_subscriptions 2.0",
        'tracker_connections{transport="websocket"} 1.0',
        "tracker_http_connections 2.0",
        "tracker_http_accepted_total 2.0",
        "tracker_mqtt_connected 0.0",
    ):
        assert line in lines
