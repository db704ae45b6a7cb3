"""A whole gateway in the test's nursery, on port 0: the real parts, without the broker.

What a broker would bring is published straight into the ingest room, as one batch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_stock

from tests.peer import Peer, connect
from tracker.app import Parts, hypercorn_config
from tracker.domain.hub import HubStatistics
from tracker.mqtt.message import Message as MqttMessage
from tracker.server.serve import Server
from tracker.settings import (
    ApiSettings,
    HttpSettings,
    LogSettings,
    MqttSettings,
    Settings,
    StreamSettings,
)
from tracker.ticker import run_ticker

DEADLINE_S = 20.0
STREAM = "/api/v1/stream"

#: An address to which nobody ever connects here: the broker's part is played by the test.
_NO_BROKER = "mqtt://127.0.0.1:1"


def make_settings(
    *,
    http: Mapping[str, Any] | None = None,
    stream: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
    mqtt: Mapping[str, Any] | None = None,
    log: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings with these branches changed; by default one free port and no broker."""
    return Settings(
        http=HttpSettings(**{"bind": ("127.0.0.1:0",), **(http or {})}),
        stream=StreamSettings(**(stream or {})),
        api=ApiSettings(**(api or {})),
        mqtt=MqttSettings(**{"url": _NO_BROKER, **(mqtt or {})}),
        log=LogSettings(**(log or {})),
    )


def payload_of(device_id: str, *, size: int = 0, **more: object) -> bytes:
    """A flat payload as a device sends it, filled up to about `size` bytes."""
    fields = "".join(f',"{name}":{value}' for name, value in more.items())
    filling = f',"FILL":"{"x" * size}"' if size else ""
    return f'{{"DEVICE_ID":"{device_id}"{fields}{filling}}}'.encode()


class Gateway:
    """A gateway that runs; `url` is that of its first address, without a slash at the end."""

    def __init__(self, parts: Parts, url: str, server: Server | None) -> None:
        self.parts = parts
        self.url = url
        self._server = server
        self._peers: list[Peer] = []

    @property
    def port(self) -> int:
        """The TCP port of its first address."""
        return int(self.url.rpartition(":")[2])

    @property
    def server(self) -> Server:
        """Our own server; there is none behind a stock one."""
        assert self._server is not None
        return self._server

    @property
    def statistics(self) -> HubStatistics:
        """The hub's counters at this moment."""
        return self.parts.hub.statistics()

    async def connect(self, *, receive_buffer_bytes: int | None = None) -> Peer:
        """A new TCP connection to it, which ends with the test at the latest."""
        peer = await connect(self.port, receive_buffer_bytes=receive_buffer_bytes)
        self._peers.append(peer)
        return peer

    async def own_peers(self) -> None:
        """Close the peers when cancelled: an unclosed socket fails the test that comes next."""
        try:
            await trio.sleep_forever()
        finally:
            for peer in self._peers:
                peer.forget()

    async def publish(self, device_id: str, *, size: int = 0, **more: object) -> None:
        """Publish one message, as if it came from the broker."""
        await self.publish_payloads([payload_of(device_id, size=size, **more)])

    async def publish_payloads(self, payloads: list[bytes]) -> None:
        """Publish one batch of payloads."""
        now_ns = time.monotonic_ns()
        await self.parts.ingest.publish(
            [
                MqttMessage("trackers/x", payload, 0, False, 0, None, received_ns=now_ns)
                for payload in payloads
            ]
        )

    async def wait_streams(self, count: int) -> None:
        """Wait until so many streams are open."""
        with trio.fail_after(DEADLINE_S):
            while len(self.parts.hub.streams()) != count:  # noqa: ASYNC110 the hub sets no event
                await trio.sleep(0.001)

    async def wait_connections(self, count: int) -> None:
        """Wait until so many connections are open."""
        with trio.fail_after(DEADLINE_S):
            while self.server.statistics().open != count:  # noqa: ASYNC110 as above
                await trio.sleep(0.001)


async def start_gateway(
    nursery: trio.Nursery,
    *,
    http: Mapping[str, Any] | None = None,
    stream: Mapping[str, Any] | None = None,
    api: Mapping[str, Any] | None = None,
    with_ticker: bool = False,
) -> Gateway:
    """Start all of a gateway but its broker in `nursery`, with these settings changed.

    Without the ticker, a client gets nothing but what it asked for.
    """
    settings = make_settings(http=http, stream=stream, api=api)
    parts = Parts(settings)
    server = Server(
        parts.web,
        hypercorn_config(settings),
        stall_s=settings.stream.stall_s,
        head_s=settings.http.read_head_timeout,
    )
    parts.metrics.server = server
    urls: tuple[str, ...] = await nursery.start(server.serve)
    if with_ticker:
        stream_settings = settings.stream
        nursery.start_soon(
            partial(
                run_ticker,
                parts.hub,
                ping_s=stream_settings.ping_s,
                heartbeat_s=stream_settings.heartbeat_s,
            )
        )
    gateway = Gateway(parts, urls[0], server)
    nursery.start_soon(gateway.own_peers)
    return gateway


async def start_stock_gateway(
    nursery: trio.Nursery, *, stream: Mapping[str, Any] | None = None
) -> Gateway:
    """The same app under Hypercorn's own server with its own defaults: what our server mends."""
    parts = Parts(make_settings(stream=stream))
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    urls: list[str] = await nursery.start(partial(serve_stock, parts.web, config))
    gateway = Gateway(parts, urls[0], None)
    nursery.start_soon(gateway.own_peers)
    return gateway
