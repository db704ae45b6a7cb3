"""The thread under a client: what it survives, what it bounds, and what a cancel leaves behind."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trio

from tests.mosquitto import Mosquitto
from tests.mqtt.checkpoints import cancelled_everywhere, mqtt_threads, open_descriptors
from tests.mqtt.conftest import Certificates
from tests.mqtt.fakes import CONNACK, publish_packet, scripted_broker
from tests.mqtt.waiting import eventually
from tracker.mqtt import Client, ConnectionState, MqttCodeError, MqttError, TLSParameters, bridge
from tracker.mqtt.bridge import CALLS_LIMIT
from tracker.mqtt.network import HANDED_TO_PAHO_LIMIT

HOST = "127.0.0.1"
DEADLINE_S = 20


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Have every descriptor below 1100 open, so that new ones are beyond what select takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with ExitStack() as stack:
        while (fd := os.open(os.devnull, os.O_RDONLY)) <= 1100:
            stack.callback(os.close, fd)
        stack.callback(os.close, fd)
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def assert_echo(client: Client) -> None:
    with trio.fail_after(DEADLINE_S):
        await client.subscribe("echo")
        await client.publish("echo", b"heard")
        assert (await anext(client.messages)).payload == b"heard"


# Brokers that misbehave


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tls_params": TLSParameters()},
        {"transport": "websockets"},
        {"transport": "websockets", "tls_params": TLSParameters()},
    ],
)
async def test_a_broker_that_accepts_and_never_answers(options: Any) -> None:
    async with scripted_broker() as port:
        # The first warms up what Trio and ssl keep open.
        for descriptors in (None, open_descriptors()):
            with pytest.raises(MqttError, match=r"^Operation timed out$"):
                async with Client(HOST, port, timeout=0.1, **options):
                    pass
            with trio.move_on_after(0.1) as scope:
                async with Client(HOST, port, timeout=1000, **options):
                    pass
            assert scope.cancelled_caught
            assert mqtt_threads() == 0
            if descriptors is not None:
                # The fake's end of the connection may live a moment longer.
                await eventually(lambda: open_descriptors() <= descriptors)  # noqa: B023


async def test_a_hundred_packets_in_one_tls_record(certificates: Certificates) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    sent = [b"%d" % number for number in range(100)]
    record = CONNACK + b"".join(publish_packet(b"t", payload) for payload in sent)
    async with (
        scripted_broker(record, tls=context) as port,
        Client(HOST, port, tls_params=TLSParameters(ca_certs=str(certificates.ca))) as client,
    ):
        got: list[bytes] = []
        with trio.fail_after(DEADLINE_S):
            while len(got) < len(sent):
                got.extend([message.payload for message in await client.receive_batch()])
    assert got == sent


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 100, b"HTTP/1.1 400 Bad Request\r\n" * 9, b"\x30\x00", b"\x90\x00"],
    ids=["ones", "http", "empty-publish", "empty-suback"],
)
async def test_a_broker_that_talks_nonsense(garbage: bytes) -> None:
    async with scripted_broker(CONNACK + garbage) as port:
        client = Client(HOST, port)
        with trio.fail_after(DEADLINE_S), pytest.raises(MqttError):
            async with client:
                await anext(client.messages)
        assert mqtt_threads() == 0


class Sticking:
    """A callback for paho's log that is stuck at the first line with `text` in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.is_stuck, self.go_on = threading.Event(), threading.Event()

    def __call__(self, _client: object, _userdata: object, _level: object, line: str) -> None:
        if self._text in line and not self.is_stuck.is_set():
            self.is_stuck.set()
            self.go_on.wait(DEADLINE_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "END_DEADLINE_S", 0.05)
    monkeypatch.setattr(bridge, "GOODBYE_S", 0.05)


async def test_a_thread_that_is_stuck_is_left_and_nobody_waits_for_it(
    impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    sticking = Sticking("Sending PUBLISH")
    ends: list[str] = []

    async def read() -> None:
        with pytest.raises(MqttError) as caught:
            await anext(client.messages)
        ends.append(str(caught.value))

    async with scripted_broker(CONNACK) as port, trio.open_nursery() as nursery:
        client = Client(HOST, port, timeout=0.05)
        with trio.fail_after(DEADLINE_S):
            async with client:
                client._client.on_log = sticking
                for _ in range(2):
                    nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(MqttError):
                    await client.publish("t")
                assert sticking.is_stuck.is_set()
            await eventually(lambda: len(ends) == 2)
            assert client.state.value is ConnectionState.DISCONNECTED
            sticking.go_on.set()
            await eventually(lambda: mqtt_threads() == 0)
    assert "The MQTT thread is stuck in a blocking call; left to itself" in caplog.text
    assert ends == ["Disconnected during message iteration"] * 2


async def test_a_thread_that_was_stuck_ends_no_later_connection(impatient: None) -> None:
    sticking = Sticking("Sending PUBLISH")
    greeting = CONNACK + publish_packet(b"t", b"hello")
    async with scripted_broker(CONNACK) as port, scripted_broker(greeting) as later_port:
        client = Client(HOST, port, timeout=0.2)
        client._client.on_log = sticking
        async with client:
            with pytest.raises(MqttError):
                await client.publish("t")
        assert mqtt_threads() == 1
        client._client.on_log = None
        client._port, client.timeout = later_port, DEADLINE_S
        with trio.fail_after(DEADLINE_S):
            async with client:
                sticking.go_on.set()
                await eventually(lambda: mqtt_threads() == 1)
                await trio.sleep(0.1)
                assert client.state.value is ConnectionState.CONNECTED
                assert (await anext(client.messages)).payload == b"hello"
        assert mqtt_threads() == 0


async def test_a_thread_that_hears_too_late_that_it_is_connected_opens_nothing(
    impatient: None,
) -> None:
    sticking = Sticking("Received CONNACK")
    async with scripted_broker(CONNACK) as port:
        client = Client(HOST, port, timeout=0.2)
        client._client.on_log = sticking
        with pytest.raises(MqttError, match="timed out"):
            async with client:
                pass
        assert sticking.is_stuck.is_set()
        sticking.go_on.set()
        await eventually(lambda: mqtt_threads() == 0)
        await trio.sleep(0.1)
        assert client.state.value is ConnectionState.DISCONNECTED
        with trio.move_on_after(0.1) as scope:
            await anext(client.messages)  # as on a client that never was connected
        assert scope.cancelled_caught


async def test_a_topic_that_is_no_utf8_is_counted_and_passed_over() -> None:
    packets = publish_packet(b"\xff", b"1") + publish_packet(b"t", b"2")
    async with scripted_broker(CONNACK + packets) as port, Client(HOST, port) as client:
        with trio.fail_after(DEADLINE_S):
            assert (await anext(client.messages)).payload == b"2"
        assert client.statistics().discarded_messages == 1


@pytest.mark.mosquitto
@pytest.mark.slow
async def test_a_broker_that_is_frozen_is_noticed_by_the_keep_alive(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port, keepalive=1)
    async with client:
        broker.pause()
        with trio.fail_after(DEADLINE_S), pytest.raises(MqttError) as caught:
            await anext(client.messages)
        assert str(caught.value.__cause__) == "[code:141] Keep alive timeout"
    broker.resume()
    async with client:
        await assert_echo(client)


@pytest.mark.mosquitto
@pytest.mark.slow
async def test_messages_that_bypass_paho_leave_the_keep_alive_intact(broker: Mosquitto) -> None:
    async with (
        Client(HOST, broker.port) as sender,
        Client(HOST, broker.port, keepalive=1) as client,
    ):
        await client.subscribe("t")
        with trio.move_on_after(3.5):
            while True:
                await sender.publish("t")
                await anext(client.messages)
        assert await client.subscribe("still there") == (0,)


@pytest.mark.mosquitto
async def test_leaving_a_frozen_broker_is_quick(broker: Mosquitto) -> None:
    with trio.fail_after(DEADLINE_S):
        async with Client(HOST, broker.port, timeout=1000):
            broker.pause()
    assert mqtt_threads() == 0


@pytest.mark.mosquitto
async def test_descriptors_above_1023(broker: Mosquitto, many_descriptors: None) -> None:
    client = Client(HOST, broker.port)
    for _ in range(2):
        async with client:
            sock: Any = client._client.socket()
            assert sock.fileno() > 1023
            await assert_echo(client)
            broker.restart()
            with trio.fail_after(DEADLINE_S):
                await client.state.wait_value(ConnectionState.DISCONNECTED)


# Bounds


@pytest.mark.mosquitto
async def test_publishes_without_a_broker_are_refused_and_nothing_is_kept(
    broker: Mosquitto,
) -> None:
    async with Client(HOST, broker.port) as client:
        broker.kill()
        with trio.fail_after(DEADLINE_S):
            await client.state.wait_value(ConnectionState.DISCONNECTED)
        for _ in range(20_000):
            with pytest.raises(MqttCodeError):
                await client.publish("t", b"x" * 100, qos=1)
        statistics = client.statistics()
        assert (statistics.refused_calls, statistics.pending_calls) == (20_000, 0)
        assert len(client._client._out_messages) == 0


@pytest.mark.mosquitto
@pytest.mark.slow
async def test_publishes_to_a_frozen_broker_are_bounded_and_counted(broker: Mosquitto) -> None:
    outcomes: Counter[object] = Counter()

    async def publish() -> None:
        try:
            await client.publish("t", b"x" * 100, qos=1, timeout=1000)
        except MqttCodeError as error:
            outcomes[error.rc] += 1
        else:
            outcomes["done"] += 1

    client = Client(HOST, broker.port, max_inflight_messages=0)
    client.pending_calls_threshold = 20_000
    async with client:
        broker.pause()
        async with trio.open_nursery() as nursery:
            for _ in range(20_000):
                nursery.start_soon(publish)
            bound = CALLS_LIMIT + HANDED_TO_PAHO_LIMIT
            await eventually(lambda: outcomes.total() >= 20_000 - bound)
            await trio.testing.wait_all_tasks_blocked()
            refused = outcomes[15]
            # How many the thread had taken when the bound was reached is the scheduler's.
            assert CALLS_LIMIT <= 20_000 - refused <= bound
            assert client.statistics().pending_calls == 20_000 - refused
            assert outcomes == {15: refused}
            assert len(client._client._out_messages) <= HANDED_TO_PAHO_LIMIT
            broker.resume()
        assert outcomes[15] + outcomes["done"] == 20_000
        assert client.statistics().refused_calls == outcomes[15]


# Faults in the thread


@pytest.mark.mosquitto
async def test_a_fault_in_the_thread_is_told_and_ends_the_connection(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(HOST, broker.port)
    async with client:
        with monkeypatch.context() as patch:

            def fail() -> None:
                raise RuntimeError("thread fault")

            patch.setattr(client._client, "loop_read", fail)
            with trio.fail_after(DEADLINE_S), pytest.raises(MqttError) as caught:
                await client.publish("t", qos=1)
        assert "thread fault" in str(caught.value.__cause__)
        (record,) = caplog.records
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "thread fault"
    async with client:
        await assert_echo(client)


# Cancellation


@pytest.mark.mosquitto
async def test_a_cancelled_enter_or_exit_leaves_nothing(broker: Mosquitto) -> None:
    client = Client("localhost", broker.port)

    async def enter_and_leave() -> None:
        async with client:
            pass

    await enter_and_leave()
    descriptors = open_descriptors()
    async for _ in cancelled_everywhere(enter_and_leave):
        assert client.state.value is ConnectionState.DISCONNECTED
        assert mqtt_threads() == 0
        # A name lookup that was cancelled goes on in Trio's thread, with a file of its own.
        await eventually(lambda: open_descriptors() <= descriptors)
    async with client:
        await assert_echo(client)


@pytest.mark.mosquitto
async def test_a_cancelled_call_leaves_the_client_usable(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port, max_concurrent_outgoing_calls=1) as client:
        for call in (
            lambda: client.subscribe("a"),
            lambda: client.unsubscribe("a"),
            lambda: client.publish("b", b"", 1),
        ):
            async for _ in cancelled_everywhere(call):
                assert client.statistics().pending_calls == 0
        await assert_echo(client)


@pytest.mark.mosquitto
async def test_a_cancelled_take_takes_nothing(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as client:
        await client.subscribe("t", qos=1)
        sent: list[bytes] = []
        got: list[bytes] = []

        async def publish_and_take_one() -> None:
            sent.append(b"%d" % len(sent))
            with trio.CancelScope(shield=True):
                await client.publish("t", sent[-1], qos=1)
            got.append((await anext(client.messages)).payload)

        async def publish_and_take_all() -> None:
            sent.append(b"%d" % len(sent))
            with trio.CancelScope(shield=True):
                await client.publish("t", sent[-1], qos=1)
            got.extend([message.payload for message in await client.receive_batch()])

        async for _ in cancelled_everywhere(publish_and_take_one):
            pass
        async for _ in cancelled_everywhere(publish_and_take_all):
            pass
        with trio.fail_after(DEADLINE_S):
            while len(got) < len(sent):
                got.extend([message.payload for message in await client.receive_batch()])
    assert got == sent


# Batches


@pytest.mark.mosquitto
async def test_a_fast_stream_comes_in_batches_and_in_order(broker: Mosquitto) -> None:
    count = 5000
    with socket.create_connection((HOST, broker.port)) as sender:
        sender.sendall(b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03raw")
        assert sender.recv(4) == CONNACK
        async with Client(HOST, broker.port) as client:
            await client.subscribe("t")
            await trio.to_thread.run_sync(
                sender.sendall,
                b"".join(publish_packet(b"t", b"%d" % number) for number in range(count)),
            )
            got: list[bytes] = []
            with trio.fail_after(DEADLINE_S):
                while len(got) < count:
                    got.extend([message.payload for message in await client.receive_batch()])
            statistics = client.statistics()
    assert got == [b"%d" % number for number in range(count)]
    assert statistics.received_messages == count
    assert statistics.batches < count / 2
