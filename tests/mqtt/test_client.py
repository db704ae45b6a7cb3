"""The client as users of aiomqtt know it, against a real mosquitto."""

from __future__ import annotations

import logging
import math
import socket
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trio
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from trio.testing import wait_all_tasks_blocked

from tests.mosquitto import Mosquitto, StartMosquitto, write_password
from tests.mqtt.conftest import Certificates
from tests.mqtt.waiting import eventually
from tracker.mqtt import (
    Client,
    ConnectionState,
    LifoQueue,
    Message,
    MqttCodeError,
    MqttConnectError,
    MqttError,
    MqttReentrantError,
    PriorityQueue,
    ProtocolVersion,
    ProxySettings,
    TLSParameters,
    Will,
)

pytestmark = pytest.mark.mosquitto

HOST = "127.0.0.1"
DEADLINE_S = 10


async def next_payload(client: Client) -> bytes:
    """Return the payload of the next message, which must come in time."""
    with trio.fail_after(DEADLINE_S):
        return (await anext(client.messages)).payload


async def assert_echo(client: Client) -> None:
    """Show that a message goes to the broker and back."""
    await client.subscribe("echo")
    await client.publish("echo", b"heard")
    assert await next_payload(client) == b"heard"


# Calls


async def test_unsubscribing_ends_one_subscription_only(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as client:
        await client.subscribe("one")
        await client.subscribe("two")
        await client.publish("one", None)
        await client.unsubscribe("one")
        await client.publish("one", None)
        await client.publish("two", None)
        topics = [(await anext(client.messages)).topic.value for _ in range(2)]
    assert topics == ["one", "two"]


async def test_subscribe_returns_what_was_granted(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as client:
        assert await client.subscribe("a", qos=2) == (2,)
        assert await client.subscribe([("b", 0), ("c", 1)]) == (0, 1)
        assert await client.subscribe(["d", "e"], 1) == (1, 1)
        (granted,) = await client.subscribe("f", 1)
        assert isinstance(granted, int)
        assert (granted.value, granted.is_failure) == (1, False)  # type: ignore[attr-defined]  # as ReasonCode has them
    async with Client(HOST, broker.port, protocol=ProtocolVersion.V5) as client:
        assert await client.subscribe(
            [("a", SubscribeOptions(qos=1)), ("b", SubscribeOptions(qos=2))]
        ) == [
            ReasonCode(PacketTypes.SUBACK, "Granted QoS 1"),
            ReasonCode(PacketTypes.SUBACK, "Granted QoS 2"),
        ]
        assert await client.subscribe(("c", SubscribeOptions(qos=1))) == [
            ReasonCode(PacketTypes.SUBACK, "Granted QoS 1")
        ]
        assert await client.subscribe("d", options=SubscribeOptions(qos=0)) == [
            ReasonCode(PacketTypes.SUBACK, "Granted QoS 0")
        ]


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_payloads_of_every_type_arrive_as_bytes(broker: Mosquitto, qos: int) -> None:
    buffer = bytearray(b"buffer")
    async with Client(HOST, broker.port) as client:
        await client.subscribe("t", qos=qos)
        for payload in ("ñ", b"\x00\xff", buffer, 7, 1.5, None):
            await client.publish("t", payload, qos=qos, timeout=math.inf)
        payloads = [await next_payload(client) for _ in range(6)]
    assert payloads == ["ñ".encode(), b"\x00\xff", b"buffer", b"7", b"1.5", b""]


async def test_a_message_carries_all_that_the_broker_said(broker: Mosquitto) -> None:
    properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's gap
    properties.UserProperty = ("k", "v")
    async with Client(HOST, broker.port, protocol=ProtocolVersion.V5) as client:
        await client.publish("t", b"old", qos=1, retain=True)
        await client.subscribe("t", qos=1)
        await client.publish("t", b"new", qos=1, properties=properties)
        old, new = [await anext(client.messages) for _ in range(2)]
    assert (old.topic.value, old.payload, old.qos, old.retain) == ("t", b"old", 1, True)
    assert (new.payload, new.qos, new.retain) == (b"new", 1, False)
    assert getattr(new.properties, "UserProperty", None) == [("k", "v")]
    assert 0 < old.received_ns <= new.received_ns
    async with Client(HOST, broker.port) as client:
        await client.subscribe("t")
        assert (await anext(client.messages)).properties is None


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda client: client.publish("a/#"), ValueError),
        (lambda client: client.publish("a", object()), TypeError),
        (lambda client: client.publish("a", qos=3), ValueError),
        (lambda client: client.subscribe(""), ValueError),
        (lambda client: client.subscribe("a/#/b"), ValueError),
        (lambda client: client.subscribe("a", qos=7), ValueError),
        (lambda client: client.unsubscribe(""), ValueError),
    ],
)
async def test_bad_arguments_raise_at_the_call_and_harm_nothing(
    broker: Mosquitto, call: Any, error: type[Exception]
) -> None:
    async with Client(HOST, broker.port) as client:
        with pytest.raises(error):
            await call(client)
        await assert_echo(client)


async def test_a_call_without_an_answer_times_out(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as client:
        broker.pause()
        for call in (
            client.subscribe("a", timeout=0.05),
            client.unsubscribe("a", timeout=0.05),
            client.publish("a", qos=1, timeout=0.05),
        ):
            with pytest.raises(MqttError, match=r"^Operation timed out$"):
                await call
        broker.resume()
        await assert_echo(client)


async def test_calls_without_a_connection_are_refused_and_counted(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port)
    with pytest.raises(MqttCodeError) as caught:
        await client.publish("a")
    assert caught.value.rc == 4
    async with client:
        broker.kill()
        with trio.fail_after(DEADLINE_S):
            await client.state.wait_value(ConnectionState.DISCONNECTED)
        with pytest.raises(MqttCodeError) as caught:
            await client.subscribe("a")
        assert caught.value.rc == 4
        assert isinstance(caught.value.__cause__, MqttCodeError)
    assert client.statistics().refused_calls == 2


async def test_a_call_that_waits_when_the_connection_goes_fails_at_once(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port, timeout=1000) as client:
        broker.pause()
        codes: list[object] = []

        async def publish() -> None:
            with pytest.raises(MqttCodeError) as caught:
                await client.publish("a", b"", 1)
            codes.append(caught.value.rc)

        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish)
                await wait_all_tasks_blocked()
                broker.kill()
    # Whether the thread had given it to paho already is a race.
    assert codes in ([4], [7])


@pytest.mark.parametrize("threshold", [10, 20])
async def test_many_pending_calls_are_told(
    broker: Mosquitto, threshold: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(HOST, broker.port) as client:
        client.pending_calls_threshold = threshold
        async with trio.open_nursery() as nursery:
            for _ in range(threshold + 1):
                nursery.start_soon(client.publish, "t")
    assert caplog.record_tuples == [
        ("mqtt", logging.WARNING, f"There are {threshold + 1} pending publish calls.")
    ]


async def test_limited_calls_wait_for_each_other(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(HOST, broker.port, max_concurrent_outgoing_calls=1) as client:
        most = 0

        async def publish() -> None:
            nonlocal most
            most = max(most, client.statistics().pending_calls)
            await client.publish("t", qos=1)
            most = max(most, client.statistics().pending_calls)

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(publish)
        await client.subscribe("t")
        await client.unsubscribe("t")
    assert most <= 1
    assert caplog.record_tuples == []


# Entering and leaving


@pytest.mark.parametrize(
    ("protocol", "length"),
    [(ProtocolVersion.V31, 22), (ProtocolVersion.V311, 0), (ProtocolVersion.V5, 0)],
)
async def test_the_identifier_is_ours_only_before_mqtt_311(
    protocol: ProtocolVersion, length: int, broker: Mosquitto
) -> None:
    client = Client(HOST, broker.port, protocol=protocol)
    assert len(client.identifier) == length
    assert Client(HOST, protocol=protocol, identifier="me").identifier == "me"
    async with client:
        await assert_echo(client)


async def test_a_client_is_reusable_and_not_reentrant(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port)
    for payload in (b"foo", b"bar"):
        async with client:
            await assert_echo(client)
            await client.publish("t", payload)
            with pytest.raises(MqttReentrantError, match="reusable, but not reentrant"):
                async with client:
                    pass
            await assert_echo(client)
    assert client.statistics().connects == 2


async def test_the_state_can_be_waited_for(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port)
    states: list[ConnectionState] = []

    async def watch(task_status: trio.TaskStatus[None]) -> None:
        async with aclosing(client.state.eventual_values()) as values:
            async for value in values:
                states.append(value)
                if len(states) == 1:
                    task_status.started()
                if len(states) == 4:
                    return

    async with trio.open_nursery() as nursery:
        await nursery.start(watch)
        async with client:
            await trio.testing.wait_all_tasks_blocked()
    assert [state.value for state in states] == [
        "disconnected",
        "connecting",
        "connected",
        "disconnected",
    ]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"hostname": "host.invalid"}, MqttError),
        ({"hostname": "." * 300}, MqttError),
        ({"port": 1}, MqttError),
        ({"timeout": 0}, MqttError),
        ({"username": "stranger", "password": "no"}, MqttConnectError),
        ({"tls_params": TLSParameters(ca_certs="/nonexistent")}, MqttError),
        ({"transport": "unix", "hostname": "/nonexistent"}, MqttError),
        ({"port": 0}, ValueError),
        ({"keepalive": -1}, ValueError),
    ],
)
async def test_a_failed_enter_leaves_the_client_as_it_was(
    start_mosquitto: StartMosquitto,
    tmp_path: Path,
    options: dict[str, Any],
    error: type[Exception],
) -> None:
    (tmp_path / "passwords").touch()
    broker = start_mosquitto(anonymous=True, extra=f"password_file {tmp_path / 'passwords'}")
    client = Client(**{"hostname": HOST, "port": broker.port, **options})
    for _ in range(2):
        with trio.fail_after(DEADLINE_S), pytest.raises(error):
            await client.__aenter__()
        assert client.state.value is ConnectionState.DISCONNECTED
        await client.__aexit__(None, None, None)


async def test_a_refusal_carries_the_brokers_code(
    start_mosquitto: StartMosquitto, tmp_path: Path
) -> None:
    passwords = tmp_path / "passwords"
    write_password(passwords, "me", "secret")
    broker = start_mosquitto(anonymous=False, extra=f"password_file {passwords}")
    async with Client(HOST, broker.port, username="me", password="secret") as client:
        await assert_echo(client)
    for protocol in (ProtocolVersion.V311, ProtocolVersion.V5):
        with pytest.raises(MqttConnectError) as caught:
            async with Client(
                HOST, broker.port, username="me", password="wrong", protocol=protocol
            ):
                pass
        assert str(caught.value) == "[code:135] Not authorized"


async def test_leaving_without_entering_or_twice_is_silent(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port)
    await client.__aexit__(None, None, None)
    async with client:
        await client.__aexit__(None, None, None)
    async with client:
        await assert_echo(client)


async def test_leaving_after_the_connection_went_is_silent(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as client:
        broker.kill()
        with trio.fail_after(DEADLINE_S):
            await client.state.wait_value(ConnectionState.DISCONNECTED)


async def test_the_will_is_published_for_who_goes_without_goodbye(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as observer:
        await observer.subscribe("will/#")
        async with Client(HOST, broker.port, will=Will("will/polite")):
            pass
        async with Client(HOST, broker.port, will=Will("will/rude", "gone", 1)) as client:
            client._client._sock_close()
            with trio.fail_after(DEADLINE_S):
                await client.state.wait_value(ConnectionState.DISCONNECTED)
        with trio.fail_after(DEADLINE_S):
            message = await anext(observer.messages)
    assert (message.topic.value, message.payload) == ("will/rude", b"gone")


async def test_a_cancelled_client_still_says_goodbye(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as observer:
        await observer.subscribe("#")
        with trio.CancelScope() as scope:
            async with Client(HOST, broker.port, will=Will("will")):
                scope.cancel()
                await trio.sleep_forever()
        await observer.publish("end")
        with trio.fail_after(DEADLINE_S):
            assert (await anext(observer.messages)).topic.value == "end"


# Ways to the broker


@pytest.mark.parametrize("protocol", list(ProtocolVersion))
async def test_every_version_of_mqtt(broker: Mosquitto, protocol: ProtocolVersion) -> None:
    async with Client(HOST, broker.port, protocol=protocol) as client:
        await assert_echo(client)


async def test_names_bound_ports_and_socket_options(broker: Mosquitto) -> None:
    async with Client("localhost", broker.port) as client:
        await assert_echo(client)
    async with Client(HOST, broker.port, bind_address="127.0.0.2") as client:
        sock: Any = client._client.socket()
        assert sock.getsockname()[0] == "127.0.0.2"
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    async with Client(
        HOST,
        broker.port,
        bind_address=HOST,
        bind_port=port,
        socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
    ) as client:
        sock = client._client.socket()
        assert sock.getsockname() == (HOST, port)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        await assert_echo(client)


async def test_tls(start_mosquitto: StartMosquitto, certificates: Certificates) -> None:
    broker = start_mosquitto(listener=certificates.listener)
    context = ssl.create_default_context(cafile=str(certificates.ca))
    trusting = TLSParameters(ca_certs=str(certificates.ca))
    for options in (
        {"tls_context": context},
        {"tls_params": trusting},
        {"tls_params": TLSParameters(cert_reqs=ssl.CERT_NONE)},
        {"tls_params": trusting, "tls_insecure": True},
    ):
        client = Client(HOST, broker.port, **options)
        for _ in range(2):
            async with client:
                await assert_echo(client)
    with pytest.raises(MqttError) as caught:
        async with Client(
            HOST, broker.port, tls_params=TLSParameters(ca_certs=str(certificates.other_ca))
        ):
            pass
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


async def test_client_certificates(
    start_mosquitto: StartMosquitto, certificates: Certificates
) -> None:
    broker = start_mosquitto(listener=f"{certificates.listener}\nrequire_certificate true")
    async with Client(
        HOST,
        broker.port,
        tls_params=TLSParameters(
            ca_certs=str(certificates.ca),
            certfile=str(certificates.client),
            keyfile=str(certificates.client_key),
        ),
    ) as client:
        await assert_echo(client)
    with pytest.raises(MqttError):
        async with Client(
            HOST, broker.port, tls_params=TLSParameters(ca_certs=str(certificates.ca))
        ):
            pass


async def test_websockets(start_mosquitto: StartMosquitto, certificates: Certificates) -> None:
    plain = start_mosquitto(websocket="")
    assert plain.websocket_port is not None
    async with Client(
        HOST,
        plain.websocket_port,
        transport="websockets",
        websocket_path="/",
        websocket_headers={"foo": "bar"},
    ) as client:
        await assert_echo(client)
        sent = [b"%d" % number for number in range(50)]
        for payload in sent:
            await client.publish("echo", payload)
        assert [await next_payload(client) for _ in sent] == sent
    encrypted = start_mosquitto(websocket=certificates.listener)
    assert encrypted.websocket_port is not None
    async with Client(
        HOST,
        encrypted.websocket_port,
        transport="websockets",
        tls_params=TLSParameters(ca_certs=str(certificates.ca)),
    ) as client:
        await assert_echo(client)
    with pytest.raises(MqttError):
        async with Client(HOST, plain.port, transport="websockets"):
            pass


@pytest.mark.slow
async def test_a_long_websocket_frame_is_sent_and_read_in_parts(
    start_mosquitto: StartMosquitto,
) -> None:
    # Of 64 bits of length; more than one read of ours, and than one write of the kernel's.
    payload = b"x" * 70_000
    broker = start_mosquitto(websocket="")
    assert broker.websocket_port is not None
    async with Client(
        HOST,
        broker.websocket_port,
        transport="websockets",
        socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)],
    ) as client:
        await client.subscribe("long")
        await client.publish("long", payload)
        assert await next_payload(client) == payload


async def test_unix_sockets(start_mosquitto: StartMosquitto, tmp_path: Path) -> None:
    path = tmp_path / "s"
    start_mosquitto(extra=f"listener 0 {path}")
    async with Client(str(path), transport="unix") as client:
        await assert_echo(client)


def test_a_proxy_needs_its_package() -> None:
    with pytest.raises(ValueError, match="PySocks must be installed"):
        Client(HOST, proxy=ProxySettings(proxy_type=2, proxy_addr="proxy.invalid"))


async def test_the_logger_is_given_to_paho(broker: Mosquitto) -> None:
    logger = logging.getLogger("mine")
    async with Client(HOST, broker.port, logger=logger) as client:
        assert client._client._logger is logger
    assert Client(HOST)._client._logger is logging.getLogger("mqtt")


async def test_who_reaches_for_the_paho_client_is_served(broker: Mosquitto) -> None:
    async with Client(HOST, broker.port) as client:
        await client.subscribe("t", qos=1)
        client._client.publish("t", b"by hand", qos=1)
        assert await next_payload(client) == b"by hand"


# Messages


async def test_the_view_of_messages_is_reusable(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port)
    async with client:
        broker.restart()
        with trio.fail_after(DEADLINE_S), pytest.raises(MqttError) as caught:
            await anext(client.messages)
        assert str(caught.value) == "Disconnected during message iteration"
        assert isinstance(caught.value.__cause__, MqttCodeError)
    async with client:
        await assert_echo(client)
    with pytest.raises(MqttError) as caught:
        await anext(client.messages)
    assert caught.value.__cause__ is None


async def test_what_is_queued_outlives_the_connection(broker: Mosquitto) -> None:
    client = Client(HOST, broker.port)
    async with client:
        await client.subscribe("t", qos=1)
        for payload in (b"1", b"2", b"3"):
            await client.publish("t", payload, qos=1)
        await eventually(lambda: len(client.messages) == 3)
        broker.kill()
        with trio.fail_after(DEADLINE_S):
            await client.state.wait_value(ConnectionState.DISCONNECTED)
        assert await next_payload(client) == b"1"
    assert [message.payload for message in await client.receive_batch()] == [b"2", b"3"]
    with pytest.raises(MqttError, match=r"^Disconnected during message iteration$"):
        await client.receive_batch()


async def test_several_tasks_share_the_messages(broker: Mosquitto) -> None:
    got: list[bytes] = []

    async with Client(HOST, broker.port) as client, trio.open_nursery() as nursery:

        async def take_one() -> None:
            got.append(await next_payload(client))

        nursery.start_soon(take_one)
        nursery.start_soon(take_one)
        await wait_all_tasks_blocked()
        await client.subscribe("t")
        await client.publish("t", "foo")
        await client.publish("t", "bar")
    assert sorted(got) == [b"bar", b"foo"]


async def test_the_length_of_the_view_is_what_waits(broker: Mosquitto) -> None:
    arrived = trio.Semaphore(0)
    async with Client(HOST, broker.port) as client:
        client.register_message_callback(lambda _message: arrived.release())
        assert len(client.messages) == 0
        await client.subscribe("t", qos=2)
        for count in range(1, 4):
            await client.publish("t", None, qos=2)
            with trio.fail_after(DEADLINE_S):
                await arrived.acquire()
            assert len(client.messages) == count
        for _ in range(3):
            await anext(client.messages)
        assert len(client.messages) == 0


async def test_queue_types_decide_the_order(broker: Mosquitto) -> None:
    class HumidityFirst(PriorityQueue):
        def _put(self, item: Message) -> None:
            super()._put((0 if item.topic.matches("humidity/#") else 1, item))

        def _get(self) -> Any:
            return super()._get()[1]

    orders = {}
    for queue_type in (None, LifoQueue, PriorityQueue, HumidityFirst):
        async with Client(HOST, broker.port, queue_type=queue_type) as client:
            await client.subscribe("#", qos=1)
            for topic in ("heat/1", "humidity/1", "heat/2"):
                await client.publish(topic, qos=1)
            await eventually(lambda: len(client.messages) == 3)
            first = await anext(client.messages)
            rest = await client.receive_batch()
            orders[queue_type] = [message.topic.value for message in (first, *rest)]
    assert orders == {
        None: ["heat/1", "humidity/1", "heat/2"],
        LifoQueue: ["heat/2", "humidity/1", "heat/1"],
        PriorityQueue: ["heat/1", "humidity/1", "heat/2"],
        HumidityFirst: ["humidity/1", "heat/1", "heat/2"],
    }


async def test_a_full_queue_discards_the_newest_and_counts_it(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Client(HOST, broker.port) as sender,
        Client(HOST, broker.port, max_queued_incoming_messages=2) as client,
        Client(HOST, broker.port, max_queued_incoming_bytes=5) as by_bytes,
    ):
        for receiver in (client, by_bytes):
            await receiver.subscribe("t", qos=1)
        for payload in (b"111", b"222", b"333", b"444"):
            await sender.publish("t", payload, qos=1)
        await eventually(lambda: client.statistics().discarded_messages == 2)
        await eventually(lambda: by_bytes.statistics().discarded_messages == 2)
        for receiver in (client, by_bytes):
            assert [m.payload for m in await receiver.receive_batch()] == [b"111", b"222"]
        await sender.publish("t", b"555", qos=1)
        assert await next_payload(client) == b"555"
        statistics = client.statistics()
    assert (
        statistics.received_messages,
        statistics.received_bytes,
        statistics.discarded_messages,
        statistics.waiting_messages,
        statistics.waiting_bytes,
    ) == (3, 9, 2, 0, 0)
    assert set(caplog.record_tuples) == {
        ("mqtt", logging.WARNING, "Message queue is full. Discarding message.")
    }


async def test_callbacks_see_every_message_and_a_bad_one_harms_nobody(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bytes] = []

    def bad(_message: Message) -> None:
        raise RuntimeError("bad callback")

    def good(message: Message) -> None:
        seen.append(message.payload)

    async with Client(HOST, broker.port) as client:
        client.register_message_callback(bad)
        client.register_message_callback(good)
        await client.subscribe("t")
        await client.publish("t", b"1")
        assert await next_payload(client) == b"1"
        client.unregister_message_callback(bad)
        await client.publish("t", b"2")
        assert await next_payload(client) == b"2"
        client.unregister_message_callback(good)
        await client.publish("t", b"3")
        assert await next_payload(client) == b"3"
        with pytest.raises(ValueError, match="not in list"):
            client.unregister_message_callback(good)
    assert seen == [b"1", b"2"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "bad callback"
