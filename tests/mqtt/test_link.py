"""The gateway's connection to its broker: kept, made anew, and explained when it is not."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.mosquitto import Mosquitto, StartMosquitto, free_port, write_password
from tests.mqtt.conftest import Certificates
from tests.mqtt.fakes import CONNACK, scripted_broker
from tests.mqtt.waiting import DEADLINE_S, eventually
from tracker.mqtt import Client, Message
from tracker.mqtt.link import STARTED, Backoff, Link, LinkState
from tracker.settings import MqttSettings

HOST = "127.0.0.1"


def make_link(url: str, **settings: Any) -> Link:
    """Return a link that tries again at once."""
    return Link(
        MqttSettings(
            **{
                "url": url,
                "topics": ("trackers/#",),
                "reconnect_min_s": 0.01,
                "reconnect_max_s": 0.05,
                **settings,
            }
        )
    )


async def sleep_on(client: Client) -> None:
    """Consume nothing, until the connection is gone."""
    while True:
        await client.receive_batch()


@asynccontextmanager
async def running(
    link: Link, consume: Callable[[Client], Awaitable[None]] = sleep_on
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: link.run(consume, task_status=task_status))
        yield
        nursery.cancel_scope.cancel()


async def until(link: Link, is_right: Callable[[LinkState], bool]) -> LinkState:
    with trio.fail_after(DEADLINE_S):
        state: LinkState = await link.state.wait_value(is_right)
        return state


async def until_subscribed(link: Link, *, reconnects: int = 0) -> LinkState:
    return await until(link, lambda state: state.is_subscribed and state.reconnects == reconnects)


async def failure(link: Link) -> str:
    """Run a link that cannot work for several attempts, and return the reason it gives."""
    async with running(link):
        await eventually(lambda: link._failures >= 3)
        state: LinkState = link.state.value
        return state.reason


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tracker.mqtt")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "tracker.mqtt"]


# What works


@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_messages_arrive_before_and_after_the_broker_was_killed(
    broker: Mosquitto, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []

    async def consume(client: Client) -> None:
        while True:
            got.extend([message.payload for message in await client.receive_batch()])

    link = make_link(broker.url, protocol=protocol, topics=("trackers/#", "others"), qos=1)
    assert (link.state.value.is_connected, link.state.value.is_subscribed) == (False, False)
    async with running(link, consume):
        state = await until_subscribed(link)
        assert state.is_connected
        assert state.reason == f"subscribed to 2 topic filter(s) at {broker.url}"
        async with Client(HOST, broker.port) as sender:
            await sender.publish("trackers/1", b"before", qos=1)
        await eventually(lambda: got == [b"before"])
        broker.kill()
        lost = await until(link, lambda state: not state.is_connected)
        assert lost.since_s > state.since_s
        assert lost.reason.startswith("connection to broker lost: the broker, or something")
        await until(link, lambda state: "connection refused" in state.reason)
        broker.start()
        back = await until_subscribed(link, reconnects=1)
        assert back.since_s > lost.since_s
        async with Client(HOST, broker.port) as sender:
            await sender.publish("others", b"after", qos=1)
        await eventually(lambda: got == [b"before", b"after"])
    assert link.client.statistics().connects == 2
    told = lines(caplog)
    assert told[0] == STARTED == "✅ MQTT → WebSocket Broker bridge iniciado"
    assert told[1].startswith(f"MQTT: connection to {broker.url} lost: ")
    assert told[2].startswith(f"MQTT: cannot use {broker.url}: connection refused")
    assert told[3].startswith(f"MQTT: connected to {broker.url}, after ")
    assert len(told) == 4


@pytest.mark.mosquitto
async def test_retained_messages_are_marked_at_every_connection(broker: Mosquitto) -> None:
    got: list[tuple[bytes, bool]] = []

    async def consume(client: Client) -> None:
        async for message in client.messages:
            got.append((message.payload, message.retain))

    link = make_link(broker.url)
    async with Client(HOST, broker.port) as sender:
        await sender.publish("trackers/1", b"old", qos=1, retain=True)
        async with running(link, consume):
            await until_subscribed(link)
            await sender.publish("trackers/1", b"new", qos=1)
            await eventually(lambda: got == [(b"old", True), (b"new", False)])
            link.client._client._sock_close()
            await until_subscribed(link, reconnects=1)
            await eventually(lambda: got[2:] == [(b"old", True)])


@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_links_of_a_shared_subscription_share(broker: Mosquitto, protocol: str) -> None:
    got: list[list[Message]] = [[], []]

    def consumer(index: int) -> Callable[[Client], Awaitable[None]]:
        async def consume(client: Client) -> None:
            while True:
                got[index].extend(await client.receive_batch())

        return consume

    first, second = [
        make_link(broker.url, topics=("$share/gateways/trackers/#",), protocol=protocol)
        for _ in range(2)
    ]
    async with running(first, consumer(0)), running(second, consumer(1)):
        await until_subscribed(first)
        await until_subscribed(second)
        async with Client(HOST, broker.port) as sender:
            for number in range(10):
                await sender.publish("trackers/1", b"%d" % number, qos=1)
        await eventually(lambda: len(got[0]) + len(got[1]) == 10)
    assert [len(part) for part in got] == [5, 5]


@pytest.mark.mosquitto
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_what_a_kept_session_brings_is_bounded_and_counted(
    broker: Mosquitto, protocol: str
) -> None:
    link = make_link(
        broker.url,
        protocol=protocol,
        client_id="gateway",
        clean_session=False,
        qos=1,
        incoming_limit_messages=5000,
    )
    async with running(link):
        await until_subscribed(link)
    async with Client(HOST, broker.port, max_inflight_messages=0) as sender:
        sender.pending_calls_threshold = 20_000
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(1000):
                    nursery.start_soon(sender.publish, "trackers/1", b"x", 1)

    async def take_nothing(client: Client) -> None:
        await trio.sleep_forever()

    async with running(link, take_nothing):
        await eventually(lambda: link.client.statistics().discarded_messages == 15_000)
    statistics = link.client.statistics()
    assert (statistics.received_messages, statistics.waiting_messages) == (5000, 5000)


@pytest.mark.mosquitto
async def test_tls_and_websockets(
    start_mosquitto: StartMosquitto, certificates: Certificates
) -> None:
    broker = start_mosquitto(
        listener=f"{certificates.listener}\nrequire_certificate true", websocket=""
    )
    own = {"cert_file": str(certificates.client), "key_file": str(certificates.client_key)}
    for link in (
        make_link(f"mqtts://{HOST}:{broker.port}", ca_file=str(certificates.ca), **own),
        make_link(f"ws://{HOST}:{broker.websocket_port}/mqtt"),
    ):
        async with running(link):
            await until_subscribed(link)


@pytest.mark.mosquitto
async def test_credentials_from_everywhere(start_mosquitto: StartMosquitto, tmp_path: Path) -> None:
    write_password(tmp_path / "passwords", "us@er", "p/w: ñ")
    (tmp_path / "password").write_text("p/w: ñ\n")
    broker = start_mosquitto(anonymous=False, extra=f"password_file {tmp_path / 'passwords'}")
    for link in (
        make_link(f"mqtt://us%40er:p%2Fw%3A%20%C3%B1@{HOST}:{broker.port}"),
        make_link(broker.url, username="us@er", password="p/w: ñ"),
        make_link(broker.url, username="us@er", password_file=str(tmp_path / "password")),
    ):
        async with running(link):
            await until_subscribed(link)


# What fails, and what the operator is told


@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_wrong_credentials(
    start_mosquitto: StartMosquitto,
    tmp_path: Path,
    protocol: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_password(tmp_path / "passwords", "me", "right")
    broker = start_mosquitto(anonymous=False, extra=f"password_file {tmp_path / 'passwords'}")
    link = make_link(broker.url, username="me", password="wrong", protocol=protocol)
    reason = await failure(link)
    assert reason == (
        "the broker refused the connection: wrong credentials, or none where it wants some; "
        "check mqtt.username and mqtt.password"
    )
    assert lines(caplog) == [f"MQTT: cannot use {broker.url}: {reason}; trying on"]


@pytest.mark.slow
async def test_no_broker(certificates: Certificates, tmp_path: Path) -> None:
    port = free_port()
    here = f"{HOST}:{port}"
    assert await failure(make_link(f"mqtt://{here}")) == (
        f"connection refused: nothing listens on port {port} of {HOST}; check mqtt.url and "
        "that the broker runs"
    )
    assert (await failure(make_link("mqtt://host.invalid"))).startswith(
        "unknown host 'host.invalid' ("
    )
    async with scripted_broker() as port:
        for scheme in ("mqtt", "mqtts", "ws"):
            link = make_link(f"{scheme}://{HOST}:{port}", connect_timeout_s=0.05)
            assert await failure(link) == (
                "no answer in time; check the network, and that the broker is not overloaded"
            )


@pytest.mark.mosquitto
async def test_tls_that_does_not_fit(
    start_mosquitto: StartMosquitto, certificates: Certificates, tmp_path: Path
) -> None:
    encrypted = start_mosquitto(listener=certificates.listener)
    url = f"mqtts://{HOST}:{encrypted.port}"
    reason = await failure(make_link(url, ca_file=str(certificates.other_ca)))
    assert reason.startswith("the broker's certificate is not trusted: ")
    assert reason.endswith("check mqtt.ca_file and that the certificate is for this host name")
    assert (await failure(make_link(url, ca_file=str(tmp_path / "none")))).startswith(
        "cannot read a TLS file (No such file or directory"
    )
    assert (await failure(make_link(f"mqtt://{HOST}:{encrypted.port}"))).endswith(
        "check that it is an MQTT port, and not one for TLS (mqtts://)"
    )
    plain = start_mosquitto(websocket="")
    assert (await failure(make_link(f"mqtts://{HOST}:{plain.port}"))).startswith(
        f"no TLS on port {plain.port} ("
    )
    assert (await failure(make_link(f"ws://{HOST}:{plain.port}"))).startswith("no WebSocket at ")


@pytest.fixture
def refusing_broker(start_mosquitto: StartMosquitto, tmp_path: Path) -> Mosquitto:
    """A broker that lets everybody subscribe to `allowed/#`, and to nothing else."""
    plugins = list(Path("/usr/lib").glob("**/mosquitto_dynamic_security.so"))
    if not plugins:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto_dynamic_security.so is missing; Debian's mosquitto has it")
        pytest.skip("mosquitto_dynamic_security.so is missing")
    rules = {
        "defaultACLAccess": {
            "publishClientSend": True,
            "publishClientReceive": True,
            "subscribe": False,
            "unsubscribe": True,
        },
        "clients": [],
        "groups": [{"groupname": "all", "roles": [{"rolename": "some"}], "clients": []}],
        "roles": [
            {
                "rolename": "some",
                "acls": [{"acltype": "subscribePattern", "topic": "allowed/#", "allow": True}],
            }
        ],
        "anonymousGroup": "all",
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    return start_mosquitto(
        extra=f"plugin {plugins[0]}\nplugin_opt_config_file {tmp_path / 'rules.json'}"
    )


@pytest.mark.mosquitto
@pytest.mark.parametrize(("protocol", "code"), [("3.1.1", "0x80"), ("5", "Not authorized")])
async def test_refused_subscriptions(
    refusing_broker: Mosquitto, protocol: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = refusing_broker.url
    reason = await failure(make_link(url, protocol=protocol, topics=("forbidden/#",)))
    assert reason == (
        f"the broker refused the subscription to 'forbidden/#' ({code}); check mqtt.topics and "
        "the rights of the anonymous user"
    )
    assert lines(caplog) == [f"MQTT: cannot use {url}: {reason}; trying on"]
    caplog.clear()
    link = make_link(url, protocol=protocol, topics=("forbidden/#", "allowed/#"))
    async with running(link):
        state = await until_subscribed(link)
        assert state.reason == f"subscribed to 1 topic filter(s) at {url}"
        await eventually(lambda: len(lines(caplog)) == 2)
    assert lines(caplog) == [
        STARTED,
        f"MQTT: the broker refused a part of the subscription, 'forbidden/#' ({code}); check "
        "mqtt.topics and the rights of the anonymous user",
    ]


@pytest.mark.slow
@pytest.mark.mosquitto
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
async def test_two_gateways_with_one_id_are_told(
    broker: Mosquitto, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    links = [make_link(broker.url, client_id="gateway", protocol=protocol) for _ in range(2)]
    async with running(links[0]), running(links[1]):
        for link in links:
            state = await until(link, lambda state: "client id" in state.reason)
            assert "another client seems to use the client id 'gateway'" in state.reason
        before = len(caplog.records)
        for link in links:
            reconnects = link.state.value.reconnects
            await until_subscribed(link, reconnects=reconnects + 3)
        assert len(caplog.records) == before


async def test_mqtt_5_tells_of_a_session_taken_over(caplog: pytest.LogCaptureFixture) -> None:
    # mosquitto 2.0 does not, others do.
    connack, suback, taken_over = b"\x20\x03\0\0\0", b"\x90\x04\0\x01\0\0", b"\xe0\x01\x8e"
    async with scripted_broker(connack, suback + taken_over) as port:
        link = make_link(f"mqtt://{HOST}:{port}", protocol="5", client_id="gateway")
        async with running(link):
            state = await until(link, lambda state: "lost" in state.reason)
            assert state.reason == (
                "connection to broker lost: another client connected with the same client id and "
                "took over the session; give each gateway its own mqtt.client_id"
            )


@pytest.mark.mosquitto
@pytest.mark.slow
async def test_a_frozen_broker_is_noticed_and_found_again(broker: Mosquitto) -> None:
    link = make_link(broker.url, keepalive_s=1, connect_timeout_s=0.2)
    async with running(link):
        await until_subscribed(link)
        broker.pause()
        lost = await until(link, lambda state: not state.is_connected)
        assert lost.reason == (
            "connection to broker lost: the broker stopped answering (keep-alive)"
        )
        await until(link, lambda state: state.reason.startswith("no answer in time"))
        broker.resume()
        await until_subscribed(link, reconnects=1)


# Faults


@pytest.mark.mosquitto
async def test_a_fault_in_the_thread_becomes_a_reconnect(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    link = make_link(broker.url, qos=1)
    async with running(link):
        await until_subscribed(link)
        with monkeypatch.context() as patch:

            def fail() -> None:
                raise RuntimeError("thread fault")

            patch.setattr(link.client._client, "loop_read", fail)
            async with Client(HOST, broker.port) as sender:
                await sender.publish("trackers/1", qos=1)
            lost = await until(link, lambda state: "thread fault" in state.reason)
            assert not lost.is_connected
        await until(link, lambda state: state.is_subscribed)
    assert any(record.exc_info for record in caplog.records)


@pytest.mark.mosquitto
async def test_a_fault_in_consume_is_the_callers(broker: Mosquitto) -> None:
    async def fail(_client: Client) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("consumer fault")

    async def stop(_client: Client) -> None:
        await trio.lowlevel.checkpoint()

    link = make_link(broker.url)
    with trio.fail_after(DEADLINE_S):
        with pytest.raises(RuntimeError, match="consumer fault"):
            await link.run(fail)
        await link.run(stop)


async def test_a_broker_that_goes_before_the_suback() -> None:
    async with scripted_broker(CONNACK, b"\xff\x00") as port:
        assert (await failure(make_link(f"mqtt://{HOST}:{port}"))).startswith(
            "the broker closed the connection before it answered; "
        )


# Settings and pauses


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "http://host"}, "mqtt.url: "),
        ({"clean_session": False}, "mqtt.clean_session: .* expected mqtt.client_id"),
        ({"clean_session": False, "protocol": "5"}, "mqtt.clean_session: "),
        ({"password_file": "/nonexistent"}, "mqtt.password_file: cannot read '/nonexistent'"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Link(MqttSettings(**settings))


@given(
    min_s=st.floats(0.01, 100),
    span_s=st.floats(0, 100),
    seed=st.integers(),
)
def test_pauses_grow_between_their_bounds(min_s: float, span_s: float, seed: int) -> None:
    max_s = min_s + span_s
    backoff = Backoff(min_s, max_s, rng=random.Random(seed))
    pauses = [backoff.next_s() for _ in range(50)]
    slack = 1e-9 * max_s
    assert all(min_s - slack <= pause <= max_s + slack for pause in pauses)
    assert all(before <= after + slack for before, after in itertools.pairwise(pauses))
    backoff.reset()
    assert backoff.next_s() <= min(max_s, min_s * 1.5) + slack
