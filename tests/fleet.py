"""A gateway with a real broker in the test's nursery, as the documents' examples need it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from tests.mosquitto import Mosquitto
from tests.peer import PING, Peer, Response, connect
from tracker.app import Gateway, serve_gateway
from tracker.mqtt import Client
from tracker.settings import ApiSettings, HttpSettings, MqttSettings, Settings, StreamSettings

DEADLINE_S = 20.0


class Fleet:
    """A running gateway, and a device that can publish to its broker."""

    def __init__(
        self, gateway: Gateway, device: Client, stopped: trio.Event, *, root_path: str
    ) -> None:
        self.gateway = gateway
        self._stopped = stopped
        self._root_path = root_path
        self._device = device
        self._published = 0
        self._peers: list[Peer] = []

    @property
    def port(self) -> int:
        """Where the gateway listens, on 127.0.0.1."""
        return int(self.gateway.urls[0].rpartition(":")[2])

    async def publish(self, topic: str, payload: str | bytes) -> None:
        """Publish as a device; returns when the gateway has taken it in."""
        await self._device.publish(topic, payload, qos=1)
        self._published += 1
        await _wait(self._has_taken_all)

    async def flood(self, topic: str, payloads: list[str]) -> None:
        """Publish many as fast as the broker takes them; returns as `publish`."""
        for payload in payloads:
            await self._device.publish(topic, payload)
        self._published += len(payloads)
        await _wait(self._has_taken_all)

    async def _has_taken_all(self) -> bool:
        return await self.metric("tracker_mqtt_messages_total") >= self._published

    async def connect(
        self,
        port: int | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> Peer:
        """A new connection, to a proxy on `port` or to the gateway; it ends with the fleet."""
        peer = await connect(port or self.port, receive_buffer_bytes=receive_buffer_bytes)
        if tls is not None:
            assert isinstance(peer.stream, trio.SocketStream)
            peer = Peer(trio.SSLStream(peer.stream, tls, server_hostname="127.0.0.1"))
        self._peers.append(peer)
        return peer

    def forget_peers(self) -> None:
        """Close every connection that was made: an unclosed one fails the test that comes next."""
        for peer in self._peers:
            peer.forget()

    async def request(self, target: str) -> Response:
        """One request on a connection of its own."""
        peer = await connect(self.port)
        try:
            return await peer.request(target)
        finally:
            peer.forget()

    async def wait_ready(self) -> None:
        """Wait until the gateway is subscribed."""
        await _wait(self.is_ready)

    async def wait_not_ready(self) -> None:
        """Wait until the gateway has noticed that its broker is away."""

        async def is_not_ready() -> bool:
            return not await self.is_ready()

        await _wait(is_not_ready)

    async def is_ready(self) -> bool:
        """What `/readyz` says."""
        return (await self.request(f"{self._root_path}/readyz")).status == 200

    async def metric(self, name: str) -> float:
        """The value of a metric; `name` with its labels."""
        for line in (await self.request(f"{self._root_path}/metrics")).body.decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.removeprefix(f"{name} "))
        raise KeyError(name)

    async def wait_stopped(self) -> None:
        """Wait until the gateway has ended in order, after `gateway.stop()`."""
        with trio.fail_after(DEADLINE_S):
            await self._stopped.wait()

    async def wait_unsubscribed(self) -> None:
        """Wait until there is no subscription left."""

        async def is_unsubscribed() -> bool:
            return await self.metric("tracker_subscriptions") == 0

        await _wait(is_unsubscribed)

    async def wait_subscribed(self, count: int = 1) -> None:
        """Wait until there are at least so many subscriptions.

        The 101, and the head of an SSE answer, leave a moment before the stream is open.
        """

        async def is_subscribed() -> bool:
            return await self.metric("tracker_subscriptions") >= count

        await _wait(is_subscribed)


async def next_message(socket: Peer, events: Peer) -> None:
    """Read on a WebSocket and an SSE stream until each has brought a message."""
    while not (await socket.read_frame()).payload.startswith(b'{"event":"message"'):
        pass
    await _read_until(events, b"event: message\n")


async def next_heartbeat(socket: Peer, events: Peer) -> None:
    """Read on a WebSocket and an SSE stream until each has brought a heartbeat."""
    while (await socket.read_frame()).opcode != PING:
        pass
    await _read_until(events, b":\n\n")


async def _read_until(events: Peer, wanted: bytes) -> None:
    # A proxy makes chunks of its own.
    arrived = b""
    while wanted not in arrived:
        arrived += await events.read_chunk()


async def _wait(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Ask a gateway that tells nobody of its changes, until it is so."""
    with trio.fail_after(DEADLINE_S):
        while not await is_so():  # noqa: ASYNC110 as above
            await trio.sleep(0.002)


async def _serve(
    settings: Settings, stopped: trio.Event, *, task_status: trio.TaskStatus[Gateway]
) -> None:
    await serve_gateway(settings, task_status=task_status)
    stopped.set()


@asynccontextmanager
async def open_fleet(
    broker: Mosquitto,
    *,
    stream: StreamSettings | None = None,
    api: ApiSettings | None = None,
    http: HttpSettings | None = None,
    mqtt: MqttSettings | None = None,
    port: int = 0,
) -> AsyncIterator[Fleet]:
    """A gateway, on a free port by default, ready, until the block ends; then it ends at once."""
    settings = Settings(
        mqtt=msgspec.structs.replace(mqtt or MqttSettings(), url=broker.url),
        stream=stream or StreamSettings(drain_s=0.1),
        http=msgspec.structs.replace(http or HttpSettings(), bind=(f"127.0.0.1:{port}",)),
        api=api or ApiSettings(ready_grace_s=0.01),
    )
    async with (
        trio.open_nursery() as nursery,
        Client("127.0.0.1", broker.port) as device,
    ):
        stopped = trio.Event()
        gateway: Gateway = await nursery.start(_serve, settings, stopped)
        fleet = Fleet(gateway, device, stopped, root_path=settings.http.root_path)
        await fleet.wait_ready()
        try:
            yield fleet
        finally:
            fleet.forget_peers()
        nursery.cancel_scope.cancel()
