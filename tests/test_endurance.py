"""Clients come and go by the thousand, in every way there is, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from tests.browser import ARGUMENTS, chromium_path
from tests.gateway import start_gateway
from tests.mosquitto import Mosquitto
from tests.peer import CLOSE, PING, TEXT, Peer, close_frame, connect, handshake, request_head
from tests.publisher import Publishing
from tests.serving import Serving

PATH = "/api/v1/stream?device_ids=busy,idle"
PAYLOAD = b'{"timestamp":"t","data":{"DEVICE_ID":"busy"}}'
DEADLINE_S = 120.0

BROWSER_STREAMS = 9
ROUND = 1000 - BROWSER_STREAMS
AT_ONCE = 50

GONE_LIMIT_S = 1.0
BASELINE_LIMIT_S = 5.0
GROWTH_LIMIT_BYTES = 1024 * 1024


# The ways to leave. Where a message is waited for, the stream is in full swing.


async def close_in_order(peer: Peer) -> None:
    await peer.open_websocket("busy,idle")
    await peer.send(close_frame(1000))
    while (frame := await peer.read_frame()).opcode in (TEXT, PING):
        pass
    assert (frame.opcode, frame.code) == (CLOSE, 1000)
    assert await peer.read_end() == b""


async def finish_websocket(peer: Peer) -> None:
    await peer.open_websocket("busy,idle")
    await peer.read_frame()
    await peer.finish()
    await peer.read_end()


async def reset_websocket(peer: Peer) -> None:
    await peer.open_websocket("busy,idle")
    await peer.read_frame()
    await peer.reset()


async def close_websocket_at_once(peer: Peer) -> None:
    await peer.open_websocket("busy,idle")
    await peer.close()


async def finish_behind_handshake(peer: Peer) -> None:
    await peer.send(handshake(PATH))
    await peer.finish()
    await peer.read_end()


async def reset_behind_handshake(peer: Peer) -> None:
    await peer.send(handshake(PATH))
    await peer.reset()


async def close_frame_behind_handshake(peer: Peer) -> None:
    await peer.send(handshake(PATH) + close_frame(1001))
    await peer.read_end()


async def refused_websocket(peer: Peer) -> None:
    assert (await peer.open_websocket("")).status == 101
    assert [frame.opcode for frame in await peer.read_frames_to_end()] == [TEXT, CLOSE]


async def finish_sse(peer: Peer) -> None:
    await peer.open_sse("busy,idle")
    await peer.read_chunk()
    await peer.finish()
    await peer.read_end()


async def reset_sse(peer: Peer) -> None:
    await peer.open_sse("busy,idle")
    await peer.read_chunk()
    await peer.reset()


async def close_sse_at_once(peer: Peer) -> None:
    await peer.open_sse("busy,idle")
    await peer.close()


async def finish_http10(peer: Peer) -> None:
    await peer.send(request_head(PATH, version="1.0"))
    await peer.read_head()
    await peer.read_until(b"\n\n")
    await peer.finish()
    await peer.read_end()


async def finish_behind_request(peer: Peer) -> None:
    await peer.send(request_head(PATH))
    await peer.finish()
    await peer.read_end()


async def reset_behind_request(peer: Peer) -> None:
    await peer.send(request_head(PATH))
    await peer.reset()


async def reset_within_the_head(peer: Peer) -> None:
    await peer.send(handshake(PATH)[:-20])
    await peer.reset()


async def say_nothing(peer: Peer) -> None:
    await peer.close()


WAYS: tuple[Callable[[Peer], Awaitable[None]], ...] = (
    close_in_order,
    finish_websocket,
    reset_websocket,
    close_websocket_at_once,
    finish_behind_handshake,
    reset_behind_handshake,
    close_frame_behind_handshake,
    refused_websocket,
    finish_sse,
    reset_sse,
    close_sse_at_once,
    finish_http10,
    finish_behind_request,
    reset_behind_request,
    reset_within_the_head,
    say_nothing,
)


async def come_and_go(port: int, count: int) -> None:
    """So many clients, each way in its turn, `AT_ONCE` of them at a time."""
    places = trio.CapacityLimiter(AT_ONCE)

    async def visit(leave: Callable[[Peer], Awaitable[None]]) -> None:
        async with places:
            peer = await connect(port)
            try:
                await leave(peer)
            finally:
                peer.forget()

    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            for index in range(count):
                nursery.start_soon(visit, WAYS[index % len(WAYS)])


def kill_a_browser(gateway: Serving, directory: Path) -> None:
    """Have a browser with streams of both kinds killed, with all its helpers."""
    url = f"127.0.0.1:{gateway.port}{PATH}"
    script = (
        f"for (let i = 0; i < 6; i++) new WebSocket('ws://{url}');"
        f"for (let i = 0; i < 3; i++) new EventSource('http://{url}');"
    )
    browser = subprocess.Popen(
        [
            chromium_path(),
            "--headless",
            *ARGUMENTS,
            "--remote-debugging-port=0",  # or it ends once the page is loaded
            "--disable-features=LocalNetworkAccessChecks",  # which would ask a user
            f"--user-data-dir={directory}",
            f"data:text/html,{quote(f'<script>{script}</script>')}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        gateway.wait_subscribers(2 * BROWSER_STREAMS)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


@pytest.mark.slow
@pytest.mark.mosquitto
@pytest.mark.browser
def test_three_thousand_clients_leave_nothing_behind(tmp_path: Path) -> None:
    environment = {"TRACKER_API__CORS_ORIGINS": "*"}  # or the browser gives up its EventSources
    rss_bytes = []
    with (
        Mosquitto(tmp_path) as broker,
        Serving(tmp_path, broker.url, environment=environment) as gateway,
        Publishing(broker.port, lambda _: PAYLOAD, rate_hz=100),
    ):
        gateway.wait_ready()
        baseline = gateway.open_files()

        def is_at_baseline() -> bool:
            # the connection that asks is one
            return (
                gateway.metric("tracker_http_connections") == 1 and gateway.open_files() == baseline
            )

        for turn in range(3):
            trio.run(come_and_go, gateway.port, ROUND)
            kill_a_browser(gateway, tmp_path / f"profile-{turn}")
            gateway.wait_subscribers(0, within_s=GONE_LIMIT_S)
            gateway.wait_until(
                is_at_baseline, "open files at the baseline", within_s=BASELINE_LIMIT_S
            )
            rss_bytes.append(gateway.rss_bytes())
        statistics = gateway.statistics()
        assert (statistics.active_subscribers, statistics.devices_being_monitored) == (0, 0)
        assert gateway.metric("tracker_messages_waiting") == 0
        assert gateway.metric("tracker_http_accepted_total") > 3000
        assert gateway.lines("Traceback") == []
    first, second, third = rss_bytes
    assert third - second <= GROWTH_LIMIT_BYTES, f"{first} → {second} → {third} bytes"


async def test_no_task_outlives_its_connection() -> None:
    async with trio.open_nursery() as nursery:
        gateway = await start_gateway(nursery)
        before = trio.lowlevel.current_statistics().tasks_living

        async def publish() -> None:
            while True:
                await gateway.publish_payloads([PAYLOAD])
                await trio.sleep(0.01)

        for leave in WAYS:
            async with trio.open_nursery() as publishers:
                publishers.start_soon(publish)
                for _ in range(5):
                    peer = await connect(gateway.port)
                    try:
                        with trio.fail_after(DEADLINE_S):
                            await leave(peer)
                    finally:
                        peer.forget()
                publishers.cancel_scope.cancel()
            await gateway.wait_connections(0)
            with trio.fail_after(BASELINE_LIMIT_S):
                while trio.lowlevel.current_statistics().tasks_living > before:  # noqa: ASYNC110 Trio tells nobody
                    await trio.sleep(0.001)
            assert gateway.statistics.subscriptions == 0, leave.__name__
        nursery.cancel_scope.cancel()
