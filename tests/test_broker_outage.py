"""A running `tracker serve` whose broker dies: its clients do not notice, but for the pause.

Each message is numbered, so what is lost, doubled, out of order or changed shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.mosquitto import Mosquitto, free_port
from tests.peer import PING, TEXT, Peer, connect
from tests.publisher import Publisher, Publishing
from tests.serving import Serving
from tracker.embedded import EmbeddedBroker, open_broker

pytestmark = [pytest.mark.slow, pytest.mark.mosquitto]

DEADLINE_S = 30.0
RETURN_LIMIT_S = 3.0
RATE_HZ = 200
DEVICES = 10
CLIENTS = 25
# The gateway pauses for 1 to 1.5 s before its first attempt and for 1.5 to 2.25 s before its
# second. Behind longer outages its pauses are longer too, and so is the limit that can be kept.
AWAY_S = (0.0, 0.0, 1.0, 2.0, 0.0)

PING_EVENT = b'{"event":"ping","data":{"type":"keep-alive"}}'
PING_SSE = b'event: ping\ndata: {"type":"keep-alive"}\n\n'
HEARTBEAT_SSE = b":\n\n"


def payload(number: int) -> bytes:
    """The message with that number; its device follows from it."""
    data = {"DEVICE_ID": f"d{number % DEVICES}", "N": number}
    return json.dumps({"timestamp": "t", "data": data}, separators=(",", ":")).encode()


class Watcher:
    """A client, and the numbers of what it received; each message is compared whole, but for
    its id, which must be above the one before.

    `outages`: after how many messages it was told that the broker is gone, or back.
    """

    def __init__(self, peer: Peer, *, websocket: bool, device_ids: tuple[str, ...]) -> None:
        self.device_ids = device_ids
        self.numbers: list[int] = []
        self.outages: list[tuple[int, bool]] = []
        self._sequence = 0
        self._received = trio.Event()
        self._peer = peer
        self._websocket = websocket

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Read until cancelled. Raises: AssertionError when anything but messages comes."""
        try:
            await self._open()
            task_status.started()
            while True:
                data = await (self._next_frame() if self._websocket else self._next_event())
                if data is not None:
                    self._take(*data)
        finally:
            self._peer.forget()

    async def _open(self) -> None:
        ids = ",".join(self.device_ids)
        if self._websocket:
            assert (await self._peer.open_websocket(ids)).status == 101
        else:
            assert (await self._peer.open_sse(ids)).status == 200
            await self._peer.read_position()

    async def _next_frame(self) -> tuple[int, bytes] | None:
        frame = await self._peer.read_frame()
        if frame.opcode == PING or frame.payload == PING_EVENT:
            return None
        assert frame.opcode == TEXT
        if change := re.fullmatch(
            rb'\{"event":"upstream","data":\{"connected":(\w+)\}\}', frame.payload
        ):
            self._note_outage(change[1])
            return None
        found = re.fullmatch(
            rb'\{"event":"message","id":"[0-9a-z]+-([0-9]+)","data":(.*)\}', frame.payload
        )
        assert found is not None, frame
        return int(found[1]), found[2]

    async def _next_event(self) -> tuple[int, bytes] | None:
        chunk = await self._peer.read_chunk()
        if chunk in (HEARTBEAT_SSE, PING_SSE):
            return None
        if change := re.fullmatch(rb'event: upstream\ndata: \{"connected":(\w+)\}\n\n', chunk):
            self._note_outage(change[1])
            return None
        found = re.fullmatch(rb"event: message\nid: [0-9a-z]+-([0-9]+)\ndata: (.*)\n\n", chunk)
        assert found is not None, chunk
        return int(found[1]), found[2]

    def _note_outage(self, is_connected: bytes) -> None:
        self.outages.append((len(self.numbers), json.loads(is_connected)))

    def _take(self, sequence: int, data: bytes) -> None:
        assert sequence > self._sequence
        self._sequence = sequence
        number = json.loads(data)["data"]["N"]
        assert data == payload(number)
        assert f"d{number % DEVICES}" in self.device_ids
        assert not self.numbers or number > self.numbers[-1], "doubled, or out of order"
        self.numbers.append(number)
        self._received.set()

    async def wait_from(self, number: int) -> float:
        """Wait for a message with that number or more; return when (`time.monotonic()`)."""
        with trio.fail_after(DEADLINE_S):
            while not self.numbers or self.numbers[-1] < number:
                self._received = trio.Event()
                await self._received.wait()
        return time.monotonic()

    def losses(self, sent: list[int]) -> int:
        """In how many places messages are missing, of those that were sent before its last.

        Raises: AssertionError when it was not told, in that place, that this may be so.
        """
        wanted = [n for n in sent if f"d{n % DEVICES}" in self.device_ids and n <= self.numbers[-1]]
        received = set(self.numbers)
        assert received <= set(wanted)
        places, got = set(), 0
        for number in wanted:
            if number in received:
                got += 1
            else:
                places.add(got)
        assert places <= {at for at, is_connected in self.outages if is_connected}
        return len(places)


@contextlib.asynccontextmanager
async def watchers(gateway: Serving) -> AsyncIterator[list[Watcher]]:
    """`CLIENTS` clients of both transports, two devices each."""
    async with trio.open_nursery() as nursery:
        found = []
        for index in range(CLIENTS):
            device_ids = (f"d{index % DEVICES}", f"d{(index + 3) % DEVICES}")
            peer = await connect(gateway.port)
            watcher = Watcher(peer, websocket=index % 2 == 0, device_ids=device_ids)
            await nursery.start(watcher.run)
            found.append(watcher)
        await trio.to_thread.run_sync(gateway.wait_subscribers, 2 * CLIENTS)
        yield found
        nursery.cancel_scope.cancel()


async def wait_all(clients: list[Watcher], number: int) -> list[float]:
    """Wait until each client got a message with that number or more; return when each did."""
    times_s: list[float] = []

    async def wait(client: Watcher) -> None:
        times_s.append(await client.wait_from(number))

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(wait, client)
    return times_s


async def prove_outages(
    gateway: Serving,
    broker_port: int,
    kill_and_return: Callable[[float], Awaitable[None]],
    away_s: tuple[float, ...],
) -> None:
    """Have the broker killed so many times under load, and judge what the clients see.

    `kill_and_return`: kill it, and return when it is back after so many seconds.
    """
    async with watchers(gateway) as clients:
        with Publishing(broker_port, payload, rate_hz=RATE_HZ) as publishing:
            await wait_all(clients, 0)
            for outage_s in away_s:
                await kill_and_return(outage_s)
                returned_s = time.monotonic()
                times_s = await wait_all(clients, publishing.next_number)
                assert min(times_s) - returned_s < RETURN_LIMIT_S
                # some life before the next death
                await wait_all(clients, publishing.next_number + RATE_HZ)
        statistics = await trio.to_thread.run_sync(gateway.statistics)
        assert statistics.active_subscribers == 2 * CLIENTS
        # Each outage was told, at both of its ends, to everybody.
        for client in clients:
            assert [change for _, change in client.outages] == [False, True] * len(away_s)
        losses = {client.losses(publishing.sent) for client in clients}
        # Nothing is lost but what was under way when the broker died.
        assert max(losses) <= len(away_s)
        metrics = await trio.to_thread.run_sync(gateway.metrics)
        assert {
            name: metrics[name, ""]
            for name in ("tracker_mqtt_reconnects_total", "tracker_mqtt_discarded_total")
        } == {
            "tracker_mqtt_reconnects_total": len(away_s),
            "tracker_mqtt_discarded_total": 0,
        }
        unwanted = ("tracker_closed_total", "tracker_messages_dropped_total")
        assert sum(value for (name, _), value in metrics.items() if name in unwanted) == 0
        opened = [value for (name, _), value in metrics.items() if name == "tracker_opened_total"]
        assert sum(opened) == CLIENTS
    # Each change is told once.
    assert len(gateway.lines("lost")) == len(away_s)
    assert len(gateway.lines("MQTT: connected to")) == len(away_s)
    assert len(gateway.lines("bridge iniciado")) == 1
    assert gateway.lines("Traceback") == []


async def test_a_mosquitto_killed_five_times_under_load(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:

        async def kill_and_return(away_s: float) -> None:
            broker.kill()
            await trio.sleep(away_s)
            await trio.to_thread.run_sync(broker.start)

        with Serving(tmp_path, broker.url) as gateway:
            gateway.wait_ready()
            await prove_outages(gateway, broker.port, kill_and_return, AWAY_S)


async def test_an_iotcore_killed_under_load(tmp_path: Path) -> None:
    port = free_port()
    async with contextlib.AsyncExitStack() as brokers:

        async def start() -> EmbeddedBroker:
            return await brokers.enter_async_context(open_broker(port=port))

        broker = await start()

        async def kill_and_return(away_s: float) -> None:
            os.kill(broker.pid, signal.SIGKILL)
            with contextlib.suppress(Exception):
                await broker.watch()
            await trio.sleep(away_s)
            await start()

        with Serving(tmp_path, broker.url) as gateway:
            gateway.wait_ready()
            await prove_outages(gateway, port, kill_and_return, (0.0,))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the soft limit of open files to the hard one for the test's own clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 2048, f"the test needs 2048 open files, the hard limit is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_a_reconnect_beside_more_than_1023_connections(tmp_path: Path) -> None:
    count = 1100
    with Mosquitto(tmp_path) as broker, Serving(tmp_path, broker.url) as gateway:
        gateway.wait_ready()
        peers: list[Peer] = []
        try:
            for index in range(count):
                peers.append(await connect(gateway.port))
                assert (await peers[-1].open_websocket(f"c{index}")).status == 101
            gateway.wait_subscribers(count)
            broker.kill()
            gateway.wait_until(
                lambda: gateway.metric("tracker_mqtt_connected") == 0, "the broker missed"
            )
            # These take the low numbers that the connection to the broker has left.
            for index in range(count, count + 8):
                peers.append(await connect(gateway.port))
                assert (await peers[-1].open_websocket(f"c{index}")).status == 101
            broker.start()
            gateway.wait_until(
                lambda: gateway.metric("tracker_mqtt_subscribed") == 1, "subscribed again"
            )
            assert descriptor_of_connection(gateway.pid, broker.port) > 1023
            with Publisher(broker.port) as device:
                for index in range(len(peers)):
                    data = b'{"timestamp":"t","data":{"DEVICE_ID":"c%d"}}' % index
                    device.publish("trackers/x", data)
            for index, peer in enumerate(peers):
                told: list[bytes] = []
                while len(told) < 3:
                    text = (await peer.read_frame()).payload
                    if text not in (b"", PING_EVENT):
                        told.append(text)
                # Who came while the broker was gone was told so too.
                assert told[:2] == [
                    b'{"event":"upstream","data":{"connected":false}}',
                    b'{"event":"upstream","data":{"connected":true}}',
                ]
                data = b'{"timestamp":"t","data":{"DEVICE_ID":"c%d"}}' % index
                found = re.fullmatch(
                    rb'\{"event":"message","id":"[0-9a-z]+-([0-9]+)","data":(.*)\}', told[2]
                )
                assert found is not None
                assert (int(found[1]), found[2]) == (index + 1, data)
        finally:
            for peer in peers:
                peer.forget()


def descriptor_of_connection(pid: int, remote_port: int) -> int:
    """The number under which a process has its connection to a port of 127.0.0.1."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    remote = f"0100007F:{remote_port:04X}"
    links = {f"socket:[{row[9]}]" for row in rows if row[2] == remote}
    (number,) = (
        int(entry.name)
        for entry in Path(f"/proc/{pid}/fd").iterdir()
        if os.readlink(entry) in links
    )
    return number
