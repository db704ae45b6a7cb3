"""Resuming, over real sockets: across transports, under load, through cuts and restarts."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path

import pytest
import trio
import trustme

from tests.gateway import STREAM, Gateway, payload_of, start_gateway, start_stock_gateway
from tests.http2 import Http2Client, connect_tls, tls_context
from tests.mosquitto import Mosquitto, broker, start_mosquitto
from tests.publisher import Publisher
from tests.raw import TEXT, Wire, open_sse, open_websocket, text_frame
from tests.serving import Serving, wait_until
from tests.web.client import EventsClient, Heard, SocketClient, StreamClient, open_client
from tests.web.test_options import numbers, on_each_transport, publish
from tracker.domain.position import Position

__all__ = ["broker", "start_mosquitto"]

OTHER = {"websocket": "sse", "sse": "websocket"}


def sequence_of(event_id: str) -> int:
    position = Position.parse(event_id)
    assert position is not None, event_id
    return position.sequence


@on_each_transport
async def test_what_was_missed_comes_in_order_and_then_what_is_live(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery)
    first = await open_client(gateway, transport, "A,B,C")
    await publish(gateway, 1, device_id="A")
    position = (await first.hear()).id
    await first.leave()
    await gateway.wait_streams(0)
    for number, device_id in ((2, "B"), (3, "A"), (4, "C"), (5, "X"), (6, "B")):
        await publish(gateway, number, device_id=device_id)
    for comes_back in (transport, OTHER[transport]):
        client = await open_client(gateway, comes_back, f"A,B,C&last_event_id={position}")
        await publish(gateway, 7)
        resume, *heard = await client.hear_many(6)
        missed = gateway.parts.hub.sequence - 2 - 1
        assert resume.data == {"status": "continued", "missed": missed, "position": position}
        assert numbers(heard)[:4] == [("message", n) for n in (2, 3, 4, 6)]
        ids = [sequence_of(each.id) for each in heard]
        assert ids == sorted(set(ids))


@on_each_transport
async def test_last_and_track_are_left_out_when_nothing_or_a_part_lacks(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery, stream={"history_messages": 2})
    await publish(gateway, 1, 2, 3, 4)
    epoch = gateway.parts.hub.epoch
    query = "A&last=1&track=15m&last_event_id="
    for position, status, expected in (
        (f"{epoch}-2", "continued", [("message", 3), ("message", 4)]),
        (f"{epoch}-1", "partial", [("message", 3), ("message", 4)]),
        (f"{epoch}-4", "continued", []),
        (f"{epoch}-5", "reset", [("snapshot", 4), ("track", 3), ("track", 4)]),
        ("other-2", "reset", [("snapshot", 4), ("track", 3), ("track", 4)]),
    ):
        client = await open_client(gateway, transport, query + position)
        resume, *heard = await client.hear_many(1 + len(expected))
        assert (resume.data["status"], numbers(heard)) == (status, expected)
        await client.leave()
        await gateway.wait_streams(0)
    outcomes = {outcome.value: n for outcome, n in gateway.statistics.resumes.items()}
    assert outcomes == {"continued": 2, "partial": 1, "reset": 2}
    assert gateway.statistics.replayed == 4


async def test_on_sse_every_stream_starts_and_every_replay_ends_with_the_position(
    nursery: trio.Nursery,
) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1, 2)
    await publish(gateway, 3, device_id="B")
    epoch = gateway.parts.hub.epoch
    client = await open_client(gateway, "sse", "A", f"Last-Event-ID: {epoch}-1")
    heard = [await client.hear_raw() for _ in range(4)]
    assert [(each.name, each.id) for each in heard] == [
        ("", f"{epoch}-1"),
        ("resume", ""),
        ("message", f"{epoch}-2"),
        ("", f"{epoch}-3"),
    ]


@on_each_transport
async def test_a_client_that_is_cut_before_its_first_message_loses_nothing(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery)
    await publish(gateway, 1)
    client = await open_client(gateway, transport, "A&hello=1")
    if transport == "websocket":
        position = (await client.hear()).data["position"]
    else:
        position = (await client.hear_raw()).id
    client.peer.forget()
    await gateway.wait_streams(0)
    await publish(gateway, 2)
    again = await open_client(gateway, transport, f"A&last_event_id={position}")
    resume, message = await again.hear_many(2)
    assert (resume.data["status"], message.number) == ("continued", 2)


@on_each_transport
async def test_a_replay_that_is_longer_than_the_queue(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(
        nursery,
        stream={"history_messages": 5000, "buffer_messages": 5, "buffer_bytes": 10_000},
    )
    epoch = gateway.parts.hub.epoch
    await gateway.publish_payloads([payload_of("A", size=500, N=n) for n in range(1, 3001)])
    client = await open_client(
        gateway, transport, f"A&last_event_id={epoch}-0", receive_buffer_bytes=4096
    )
    # It does not read, and messages go on.
    await gateway.publish_payloads([payload_of("A", size=500, N=n) for n in range(3001, 4001)])
    resume, *heard = await client.hear_many(4001)
    assert resume.data["missed"] == 3000
    assert [each.number for each in heard] == list(range(1, 4001))
    assert sum(gateway.statistics.dropped.values()) == 0


@on_each_transport
async def test_what_the_history_loses_before_a_slow_replay_comes_to_it_is_a_gap(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(nursery, stream={"history_messages": 1000})
    epoch = gateway.parts.hub.epoch
    await gateway.publish_payloads([payload_of("A", size=1000, N=n) for n in range(1, 1001)])
    client = await open_client(
        gateway, transport, f"A&last_event_id={epoch}-0", receive_buffer_bytes=4096
    )
    for start in range(1001, 4001, 100):
        batch = [payload_of("A", size=1000, N=n) for n in range(start, start + 100)]
        await gateway.publish_payloads(batch)
    heard = await client.hear_until(lambda each: each.name == "message" and each.number == 4000)
    assert heard[0].data["status"] == "continued"
    expected = 1
    for each in heard[1:]:
        if each.name == "gap":
            assert each.data["reason"] == "evicted"
            expected += each.data["dropped"]
        else:
            assert each.number == expected
            expected += 1
    assert expected == 4001
    assert any(each.name == "gap" for each in heard)


class Flood:
    """Publishes 10,000 messages a second of ten devices, in batches, until stopped."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._numbers = dict.fromkeys("ABCDEFGHIJ", 0)
        self._is_stopping = False
        self._ended = trio.Event()

    async def run(self) -> None:
        due_s = trio.current_time()
        devices = itertools.cycle(self._numbers)
        while not self._is_stopping:
            due_s += 0.005
            await trio.sleep_until(due_s)
            await self._publish([next(devices) for _ in range(50)])
        self._ended.set()

    async def _publish(self, device_ids: list[str]) -> None:
        payloads = []
        for device_id in device_ids:
            self._numbers[device_id] += 1
            payloads.append(payload_of(device_id, N=self._numbers[device_id]))
        await self._gateway.publish_payloads(payloads)

    async def stop(self) -> dict[str, int]:
        """The last number of each device."""
        self._is_stopping = True
        await self._ended.wait()
        return self._numbers


@on_each_transport
async def test_ten_thousand_messages_a_second_and_twenty_cuts(
    nursery: trio.Nursery, transport: str
) -> None:
    gateway = await start_gateway(
        nursery, stream={"history_messages": 5000, "buffer_messages": 5000}
    )
    flood = Flood(gateway)
    position = str(gateway.parts.hub.position)
    nursery.start_soon(flood.run)
    got: dict[str, list[int]] = {device_id: [] for device_id in "ABCDEFGHIJ"}
    transports = itertools.cycle((transport, OTHER[transport]))

    def note(heard: Heard) -> str:
        assert heard.name in ("resume", "message", ""), heard
        if heard.name == "resume":
            assert heard.data["status"] == "continued"
        elif heard.name == "message":
            got[heard.data["data"]["DEVICE_ID"]].append(heard.number)
        return heard.id or position

    for _ in range(20):
        query = f"A,B,C,D,E,F,G,H,I,J&last_event_id={position}"
        client = await open_client(gateway, next(transports), query)
        for _ in range(100):
            position = note(await client.hear_raw())
        client.peer.forget()
        await gateway.wait_streams(0)
    last = await flood.stop()
    client = await open_client(gateway, transport, f"{','.join(got)}&last_event_id={position}")
    while any(not got[device_id] or got[device_id][-1] != last[device_id] for device_id in got):
        position = note(await client.hear_raw())
    assert got == {device_id: list(range(1, last[device_id] + 1)) for device_id in got}


async def test_resume_behind_a_stock_server(nursery: trio.Nursery) -> None:
    gateway = await start_stock_gateway(nursery)
    await publish(gateway, 1, 2, 3)
    epoch = gateway.parts.hub.epoch
    clients: list[StreamClient] = [
        SocketClient(await gateway.connect()),
        EventsClient(await gateway.connect()),
    ]
    for client in clients:
        await client.open(f"A&hello=1&last_event_id={epoch}-1")
        hello, resume, *heard = await client.hear_many(4)
        assert hello.data["position"] == f"{epoch}-1"
        assert resume.data == {"status": "continued", "missed": 2, "position": f"{epoch}-1"}
        assert [(each.number, each.id) for each in heard] == [(2, f"{epoch}-2"), (3, f"{epoch}-3")]


async def test_resume_over_http2(nursery: trio.Nursery, tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = tmp_path / "pair.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pair)
    gateway = await start_gateway(nursery, http={"certfile": str(pair), "keyfile": str(pair)})
    await publish(gateway, 1, 2)
    epoch = gateway.parts.hub.epoch
    position = f"{epoch}-1"

    path = f"{STREAM}?device_ids=A&last_event_id={position}"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = await connect_tls(gateway.port, tls_context(str(tmp_path / "ca.pem"), "h2"))
    client = Http2Client(tls)
    await client.start()
    events = await client.request(path)
    resumed = b'{"status":"continued","missed":1,"position":"%b"}' % position.encode()
    data = b'{"timestamp":2,"data":{"DEVICE_ID":"A","N":2}}'
    expected = b"id: %b\n\nevent: resume\ndata: %b\n\nevent: message\nid: %b-2\ndata: %b\n\n" % (
        position.encode(),
        resumed,
        epoch.encode(),
        data,
    )
    while len(client.data[events]) < len(expected):
        await client.receive()
    assert bytes(client.data[events]).startswith(expected)
    while not client.connection.remote_settings.enable_connect_protocol:
        await client.receive()
    socket = await client.open_websocket(path, (":protocol", "websocket"))
    while data not in client.data[socket]:
        await client.receive()
    texts = [
        b'{"event":"resume","data":%b}' % resumed,
        b'{"event":"message","id":"%b-2","data":%b}' % (epoch.encode(), data),
    ]
    assert bytes(client.data[socket]) == b"".join(map(text_frame, texts))
    tls.transport_stream.socket.close()


# A real `tracker serve`, restarted.

PERSISTENT = {
    "TRACKER_MQTT__CLIENT_ID": "resume-test",
    "TRACKER_MQTT__CLEAN_SESSION": "false",
    "TRACKER_MQTT__QOS": "1",
}
QUIET = {
    "TRACKER_STREAM__PING_S": "1000",
    "TRACKER_STREAM__HEARTBEAT_S": "1000",
    "TRACKER_STREAM__DRAIN_S": "0.1",
    "TRACKER_STREAM__HISTORY_FILE": "history",
}


def next_event(wire: Wire) -> tuple[str, dict[str, object], str]:
    first, payload = wire.read_frame()
    assert first == TEXT, payload
    told = json.loads(payload)
    return told["event"], told["data"], told.get("id", "")


@pytest.mark.slow
@pytest.mark.mosquitto
@pytest.mark.parametrize("keeps_session", [True, False])
def test_over_a_planned_restart(tmp_path: Path, broker: Mosquitto, keeps_session: bool) -> None:
    environment = QUIET | (PERSISTENT if keeps_session else {})
    with Publisher(broker.port) as device:
        with Serving(tmp_path, broker.url, environment=environment) as gateway:
            gateway.wait_ready()
            with open_websocket(gateway.port, "?device_ids=A&hello=1") as wire:
                assert next_event(wire)[0] == "hello"
                device.publish("trackers/a", payload_of("A", N=1))
                _, _, position = next_event(wire)
                device.publish("trackers/a", payload_of("A", N=2))
                gateway.wait_processed(2)
                assert gateway.stop() == 0
        assert (tmp_path / "history").exists()
        if keeps_session:  # it is kept for us while we are away
            device.deliver("trackers/a", payload_of("A", N=3))
        with Serving(tmp_path, broker.url, environment=environment) as gateway:
            gateway.wait_ready()
            wait_until(lambda: not (tmp_path / "history").exists(), "the file is used up")
            with open_websocket(gateway.port, f"?device_ids=A&last_event_id={position}") as wire:
                name, resume, _ = next_event(wire)
                assert (name, resume["status"]) == (
                    "resume",
                    "continued" if keeps_session else "partial",
                )
                expected = [2, 3] if keeps_session else [2]
                for number in expected:
                    _, message, event_id = next_event(wire)
                    assert message["data"] == {"DEVICE_ID": "A", "N": number}
                    assert sequence_of(event_id) == number
            # A crash leaves nothing that could give an id a second time.
            gateway.kill()
        with Serving(tmp_path, broker.url, environment=environment) as gateway:
            gateway.wait_ready()
            with open_sse(gateway.port, f"?device_ids=A&last_event_id={position}") as wire:
                wire.read_until(b"event: resume\n")
                assert wire.read_until(b"\n").startswith(b'data: {"status":"reset"')


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_broker_that_forgot_us_while_we_were_away_is_told(
    tmp_path: Path, broker: Mosquitto
) -> None:
    environment = QUIET | PERSISTENT
    with Serving(tmp_path, broker.url, environment=environment) as gateway:
        gateway.wait_ready()
        assert gateway.stop() == 0
    broker.kill()
    with (
        Serving(tmp_path, broker.url, environment=environment) as gateway,
        open_websocket(gateway.port, "?device_ids=A&hello=1") as wire,
    ):
        assert next_event(wire)[0] == "hello"
        broker.start()
        assert next_event(wire) == ("upstream", {"connected": False}, "")
        assert next_event(wire) == ("upstream", {"connected": True}, "")


@pytest.mark.slow
@pytest.mark.mosquitto
def test_a_stop_with_a_large_history_keeps_its_time(tmp_path: Path, broker: Mosquitto) -> None:
    environment = QUIET | PERSISTENT | {"TRACKER_STREAM__HISTORY_MESSAGES": "100000"}
    messages = 100_000
    with (
        Serving(tmp_path, broker.url, environment=environment) as gateway,
        Publisher(broker.port) as device,
    ):
        gateway.wait_ready()
        for number in range(messages):
            device.publish("trackers/a", payload_of(f"{number % 5000}", size=200, N=number))
        device.flush()
        gateway.wait_until(
            lambda: gateway.statistics().total_messages_processed == messages,
            "all processed",
            within_s=60.0,
        )
        begun_s = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - begun_s < 0.1 + 5.0
        assert gateway.lines("ERROR") == []
    with Serving(tmp_path, broker.url, environment=environment) as gateway:
        gateway.wait_ready()
        assert gateway.metric("tracker_history_messages") == messages
        assert gateway.lines("WARNING") == []
