"""Minutes of messages, clients that stay and clients that come and go: memory stays flat.

`SOAK_S=3600 python -m pytest tests/test_soak.py -m soak -s` for an hour; it shows what it saw.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.mosquitto import Mosquitto
from tests.peer import connect
from tests.publisher import Publishing
from tests.serving import Serving
from tests.test_endurance import WAYS, come_and_go

SOAK_S = float(os.environ.get("SOAK_S", "300"))
STAYING = 50
#: How many come at once, and how many a second: a busy day, not a storm.
COMING = 4 * len(WAYS)
COMING_HZ = 50.0
DEVICES = 20
RATE_HZ = 200.0
#: In so many parts the time is cut; the first is for the history to fill.
PARTS = 5
#: Between the highest of the second part and the highest of the last.
GROWTH_LIMIT_BYTES = 2 * 1024 * 1024


def payload(number: int) -> bytes:
    device = "busy" if number % 2 else f"device-{number % DEVICES}"
    return b'{"timestamp":"%d","data":{"DEVICE_ID":"%b","N":%d}}' % (
        time.time_ns(),
        device.encode(),
        number,
    )


async def stay(port: int, *, is_websocket: bool) -> None:
    """Read for ever; whoever is cut fails the test."""
    peer = await connect(port)
    try:
        if is_websocket:
            await peer.open_websocket("busy,device-0")
        else:
            await peer.open_sse("busy,device-0")
        read_one = peer.read_frame if is_websocket else peer.read_chunk
        while True:
            assert await read_one()
    finally:
        peer.forget()


async def soak(gateway: Serving) -> list[int]:
    """The highest resident memory in each part, in bytes."""
    highest = [0] * PARTS
    begun_s = trio.current_time()

    async def keep_coming() -> None:
        while True:
            await come_and_go(gateway.port, COMING)
            await trio.sleep(COMING / COMING_HZ)

    async def look() -> None:
        while (part := int((trio.current_time() - begun_s) / SOAK_S * PARTS)) < PARTS:
            highest[part] = max(highest[part], gateway.rss_bytes())
            await trio.sleep(0.5)

    async with trio.open_nursery() as nursery:
        for index in range(STAYING):
            nursery.start_soon(partial(stay, gateway.port, is_websocket=index % 2 == 0))
        nursery.start_soon(keep_coming)
        await look()
        nursery.cancel_scope.cancel()
    return highest


@pytest.mark.soak
@pytest.mark.mosquitto
def test_memory_stays_flat(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Serving(tmp_path, broker.url) as gateway,
        Publishing(broker.port, payload, rate_hz=RATE_HZ) as publishing,
    ):
        gateway.wait_ready()
        highest = trio.run(soak, gateway)
        connections = int(gateway.metric("tracker_http_accepted_total"))
        messages = len(publishing.sent)
        gateway.wait_subscribers(0)
        assert gateway.lines("Traceback") == []
    shown = ", ".join(f"{each / 2**20:.1f}" for each in highest)
    print(  # noqa: T201
        f"\n{SOAK_S:.0f} s, {messages:,} messages, {connections:,} connections;"
        f" highest RSS in each fifth: {shown} MiB"
    )
    assert highest[-1] - highest[1] <= GROWTH_LIMIT_BYTES, shown
