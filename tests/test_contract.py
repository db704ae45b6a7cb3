"""PROTOCOL part A against a running `tracker serve` and a real mosquitto, bytes compared.

A test's name begins with the section that it holds the gateway to. Everything is read from
raw sockets, up to a last message that closes the list: what must not come would stand before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.http2 import Http2Client, connect_tls, tls_context
from tests.mosquitto import Mosquitto
from tests.publisher import Publisher
from tests.raw import (
    ACCEPT,
    CLOSE,
    STREAM,
    Position,
    Wire,
    chunk,
    close_frame,
    event_block,
    event_text,
    handshake_request,
    masked_frame,
    open_sse,
    open_websocket,
    parse_head,
    read_head,
    sse_request,
    text_frame,
)
from tests.serving import Serving, Statistics, wait_until
from tracker.settings import Settings

pytestmark = pytest.mark.mosquitto

TOPIC = "trackers/some/device"
PING = b'{"event":"ping","data":{"type":"keep-alive"}}'
NO_IDS = (
    b'{"event":"error","data":{"message":'
    b'"Debe especificar al menos un device_id en los query params"}}'
)
STARTED = "✅ MQTT → WebSocket Broker bridge iniciado"
WARNING = re.compile(
    r"Cola llena para device_id (\S+)\. Aplicando backpressure \(mensaje descartado\)"
    r"(?: \((\d+) desde el último aviso\))?"
)
# Neither a ping nor a heartbeat may come between what a test compares.
QUIET = {"TRACKER_STREAM__PING_S": "1000", "TRACKER_STREAM__HEARTBEAT_S": "1000"}
# The characters of a log line may not depend on what the terminal is said to show.
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
AT_ONCE = {"TRACKER_MQTT__RECONNECT_MIN_S": "0.01"}
# With such a buffer the kernel soon refuses bytes for a client that does not read.
SMALL_BUFFER_BYTES = 4096
ROOMY_BUFFER_BYTES = 8 * 1024 * 1024

StartGateway = Callable[..., Serving]


@dataclasses.dataclass(frozen=True)
class Client:
    """A way to open the stream, and how an event looks on it.

    `take`: read one event as it stands on the wire; `encode`: an event's name, data and id,
    which may be None, as they must stand there; `id`: finds the id of a live message.
    """

    open: Callable[..., Wire]
    take: Callable[[Wire], bytes]
    encode: Callable[[bytes, bytes, bytes | None], bytes]
    id: re.Pattern[bytes]


def open_events(port: int, query: str, *, version: str = "1.1", **options: Any) -> Wire:
    """An SSE stream; the first position, with which it begins, is read. PROTOCOL B1."""
    wire = open_sse(port, query, version=version, **options)
    block = wire.read_chunk() if version == "1.1" else wire.read_event()
    event_id = block.removeprefix(b"id: ").removesuffix(b"\n\n")
    assert block == b"id: " + event_id + b"\n\n"
    wire.position = Position.of(event_id)
    return wire


WEBSOCKET = Client(
    open_websocket,
    Wire.take_frame,
    lambda name, data, event_id: text_frame(event_text(name, data, event_id)),
    re.compile(rb'{"event":"message","id":"([^"]*)"'),
)
SSE = Client(
    open_events,
    Wire.take_chunk,
    lambda name, data, event_id: chunk(event_block(name, data, event_id)),
    re.compile(rb"event: message\nid: ([^\n]*)\n"),
)
SSE_HTTP10 = Client(partial(open_events, version="1.0"), Wire.read_event, event_block, SSE.id)

on_each_transport = pytest.mark.parametrize(
    "client", [WEBSOCKET, SSE, SSE_HTTP10], ids=["websocket", "sse", "sse-http1.0"]
)


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="module")
def shared_gateway(
    mosquitto: Mosquitto, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("gateway"), mosquitto.url, environment=QUIET) as gateway:
        gateway.wait_ready()
        wait_past_first_pings(gateway, clients=4)
        yield gateway


def wait_past_first_pings(gateway: Serving, clients: int) -> None:
    """However long the period, the ticker's first ticks, 0.1 s apart, are those of the second
    stream and of the ones after it."""
    if clients > 1:
        age_s = 0.1 * (clients + 1)
        wait_until(lambda: time.monotonic() > gateway.listening_since_s + age_s, "its age")
        gateway.get("/healthz")  # it has had its turn since


@pytest.fixture
def gateway(shared_gateway: Serving) -> Serving:
    """A gateway without clients that others have used before."""
    shared_gateway.wait_subscribers(0)
    return shared_gateway


@pytest.fixture
def start_gateway(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[StartGateway]:
    """Start gateways of one's own, for so many clients; they end with the test."""
    with contextlib.ExitStack() as gateways:

        def start(*flags: str, clients: int = 1, **environment: str) -> Serving:
            gateway = Serving(tmp_path, mosquitto.url, *flags, environment=QUIET | environment)
            gateways.enter_context(gateway).wait_ready()
            wait_past_first_pings(gateway, clients)
            return gateway

        yield start


@pytest.fixture
def device(mosquitto: Mosquitto) -> Iterator[Publisher]:
    with Publisher(mosquitto.port) as publisher:
        yield publisher


def nested(device_id: str, **fields: object) -> bytes:
    """A payload of the usual shape."""
    payload = {"timestamp": "2024-12-11T10:30:00Z", "data": {"DEVICE_ID": device_id, **fields}}
    return json.dumps(payload, separators=(",", ":")).encode()


def numbered(device_id: str, count: int, *, padding_bytes: int = 0) -> list[bytes]:
    """So many payloads, each with its number `N`, and with padding."""
    return [nested(device_id, N=n, PAD="x" * padding_bytes) for n in range(count)]


def number_of(event: bytes) -> int:
    """The number of a message of `numbered`."""
    found = re.search(rb'"N":([0-9]+)', event)
    assert found is not None, event
    return int(found[1])


def position_in(client: Client, event: bytes) -> Position:
    """What the id of a live message says, which stands before its data. PROTOCOL B1."""
    found = client.id.search(event)
    assert found is not None, f"no id in {event[:200]!r}"
    return Position.of(found[1])


def message_of(position: Position, client: Client, data: bytes) -> bytes:
    """A live message as it stands on the wire."""
    return client.encode(b"message", data, position.id)


def read_message(client: Client, wire: Wire) -> bytes:
    """The next event as it stands on the wire: a live message, whose id is above all before."""
    event = client.take(wire)
    position = position_in(client, event)
    assert wire.position is None or position.is_after(wire.position)
    wire.position = position
    return event


def assert_messages(client: Client, wire: Wire, payloads: Iterable[bytes]) -> None:
    """The next bytes are live messages with these data, and nothing else than their ids."""
    for data in payloads:
        event = read_message(client, wire)
        assert wire.position is not None
        assert event == message_of(wire.position, client, data)


@dataclasses.dataclass(frozen=True)
class Gap:
    """What a `gap` event says. PROTOCOL B4."""

    device_id: str | None
    dropped: int
    reason: str = "buffer_full"

    def on(self, client: Client) -> bytes:
        """As it stands on the wire."""
        data = json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()
        return client.encode(b"gap", data, None)


def read_number_or_gap(wire: Wire, payloads: Sequence[bytes]) -> int | Gap:
    """Read one event of a WebSocket: the number of a message among `payloads`, or a gap."""
    frame = wire.take_frame()
    if WEBSOCKET.id.search(frame) is None:
        gap = Gap(**json.loads(frame[frame.index(b"{") :])["data"])
        assert frame == gap.on(WEBSOCKET)
        return gap
    position = position_in(WEBSOCKET, frame)
    assert wire.position is None or position.is_after(wire.position)
    wire.position = position
    number = number_of(frame)
    assert frame == message_of(position, WEBSOCKET, payloads[number])
    return number


def assert_read(wire: Wire, expected: bytes) -> None:
    """The next bytes are these."""
    assert wire.read(len(expected)) == expected


def dropped_by_reason(gateway: Serving) -> dict[str, int]:
    """How many messages were dropped, by reason."""
    return {
        reason: int(gateway.metric("tracker_messages_dropped_total", f'reason="{reason}"'))
        for reason in ("buffer_full", "closed")
    }


# A1: one URL, two transports


def test_a1_a_websocket_handshake_is_answered_with_a_websocket(gateway: Serving) -> None:
    with Wire(gateway.port) as wire:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        wire.send(handshake_request("?device_ids=A1").removesuffix(b"\r\n") + offer)
        status, headers = read_head(wire)
        date = headers.pop("date")
        assert status == "HTTP/1.1 101"
        # neither an extension nor a subprotocol, neither a length nor a content type
        assert headers == {
            "upgrade": "WebSocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
        }
        assert date.endswith(" GMT")


def test_a1_any_other_request_is_answered_with_server_sent_events(gateway: Serving) -> None:
    with Wire(gateway.port) as wire:
        wire.send(sse_request("?device_ids=A1"))
        status, headers = read_head(wire)
        del headers["date"]
        assert status == "HTTP/1.1 200"
        assert headers == {
            "content-type": "text/event-stream",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
            "transfer-encoding": "chunked",
        }


def test_a1_head_answers_the_headers_of_the_stream_and_ends(gateway: Serving) -> None:
    def head_of(request: bytes) -> tuple[str, dict[str, str]]:
        with Wire(gateway.port) as wire:
            wire.send(request)
            status, headers = read_head(wire)
            del headers["date"]
            return status, headers

    query = "?device_ids=A1"
    expected = head_of(sse_request(query))
    gateway.wait_subscribers(0)
    assert head_of(sse_request(query, method="HEAD")) == expected
    with Wire(gateway.port) as wire:
        wire.send(sse_request(query, method="HEAD"))
        wire.send(sse_request(query, method="HEAD", version="1.0"))
        # The second answer stands right behind the first head: no body, no subscription.
        read_head(wire)
        status, headers = parse_head(wire.read_to_end())
        assert (status, headers["content-type"]) == ("HTTP/1.1 200", "text/event-stream")
    assert gateway.statistics().active_subscribers == 0


def test_a1_an_http10_client_gets_bare_events_until_the_connection_ends(
    start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway()
    data = nested("http1.0")
    with Wire(gateway.port) as wire:
        wire.send(sse_request("?device_ids=http1.0", version="1.0"))
        status, headers = read_head(wire)
        del headers["date"]
        assert status == "HTTP/1.1 200"
        assert headers == {
            "content-type": "text/event-stream",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
            "connection": "close",
        }
        gateway.wait_subscribers(1)
        block = wire.read_event()
        wire.position = Position.of(block.removeprefix(b"id: ").removesuffix(b"\n\n"))
        assert block == b"id: " + wire.position.id + b"\n\n"
        device.publish(TOPIC, data)
        assert_messages(SSE_HTTP10, wire, [data])
        gateway.ask_to_stop()
        goodbye = re.fullmatch(
            rb"retry: (\d+)\nevent: reconnect\n"
            rb'data: \{"after_ms":(\d+),"reason":"shutdown"\}\n\n',
            wire.read_to_end(),
        )
        assert goodbye is not None
        assert goodbye[1] == goodbye[2]
    assert gateway.wait_stopped() == 0


@on_each_transport
def test_a1_device_ids_are_merged_trimmed_and_folded(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    query = "?device_ids=A,%20B%20,,A,%20&x=1&device_ids=&device_ids=C,B%09,%C3%B1"
    with client.open(gateway.port, query) as wire:
        gateway.wait_subscribers(4)
        assert gateway.statistics().devices_being_monitored == 4
        wanted = [nested(name) for name in ("A", "B", "C", "ñ", "A")]
        others = [nested(name) for name in ("D", "a", " A", "A,B", "*", "%C3%B1")]
        for payload in (*others, *wanted):
            device.publish(TOPIC, payload)
        assert_messages(client, wire, wanted)


def test_a1_the_topic_says_nothing_about_the_device(gateway: Serving, device: Publisher) -> None:
    with open_websocket(gateway.port, "?device_ids=in-payload") as wire:
        gateway.wait_subscribers(1)
        device.publish("trackers/in-payload", nested("another"))
        device.publish("elsewhere/in-payload", nested("in-payload", N=1))
        device.publish("trackers/another", nested("in-payload", N=2))
        assert_messages(WEBSOCKET, wire, [nested("in-payload", N=2)])


async def test_a1_both_transports_over_http2(
    mosquitto: Mosquitto, device: Publisher, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    environment = QUIET | {
        "TRACKER_HTTP__CERTFILE": str(tmp_path / "server.pem"),
        "TRACKER_HTTP__KEYFILE": str(tmp_path / "server.key"),
    }
    trust = tls_context(str(tmp_path / "ca.pem"), "http/1.1")
    data, last = nested("A", N="ñ"), nested("B")
    protocol = (":protocol", "websocket")  # RFC 8441 §4
    with Serving(tmp_path, mosquitto.url, environment=environment, trust=trust) as gateway:
        gateway.wait_ready()
        wait_past_first_pings(gateway, clients=2)
        tls = await connect_tls(gateway.port, tls_context(str(tmp_path / "ca.pem"), "h2"))
        try:
            client = Http2Client(tls)
            await client.start()
            # the 400 first: with it come the settings that allow what RFC 8441 adds
            assert await client.answer(await client.request(STREAM)) == (400, NO_IDS)
            refused = await client.open_websocket(STREAM, protocol)
            websocket = await client.open_websocket(f"{STREAM}?device_ids=A,B", protocol)
            sse = await client.request(f"{STREAM}?device_ids=A,B")
            for stream_id in (refused, websocket, sse):
                assert await client.wait_status(stream_id) == 200
            assert "sec-websocket-extensions" not in client.headers[websocket]
            assert client.headers[sse]["content-type"] == "text/event-stream"
            gateway.wait_subscribers(4)
            await client.wait(lambda: client.data[sse].endswith(b"\n\n"))
            start = bytes(client.data[sse])
            position = Position.of(start.removeprefix(b"id: ").removesuffix(b"\n\n"))
            for payload in (data, nested("C"), last):
                device.publish(TOPIC, payload)
            messages = [(position.plus(1), data), (position.plus(3), last)]
            expected = {
                refused: text_frame(NO_IDS) + close_frame(1008),
                websocket: b"".join(message_of(at, WEBSOCKET, each) for at, each in messages),
                sse: start + b"".join(message_of(at, SSE_HTTP10, each) for at, each in messages),
            }
            for stream_id, wanted in expected.items():
                received = client.data[stream_id]
                await client.wait(partial(has_length, received, len(wanted)))
                assert bytes(received) == wanted
        finally:
            tls.transport_stream.socket.close()
        gateway.wait_subscribers(0)


def has_length(data: bytearray, size: int) -> bool:
    """Whether so much has arrived."""
    return len(data) >= size


# A2: messages

DEVICE = "0848086072"
AS_SENT = [
    # as the documentation shows it
    b'{"timestamp":"2024-12-11T10:30:00Z","data":{"DEVICE_ID":"0848086072","LAT":-33.4567,'
    b'"LON":-70.6789,"SPEED":45}}',
    # numbers that no float holds
    b'{"timestamp":"t","data":{"DEVICE_ID":"0848086072","A":123456789012345678901234567890,'
    b'"B":1.10,"C":-0.0,"D":1E+400,"E":0.1000000000000000055511151231257827,"F":1e-7}}',
    # the order of the keys, unknown and repeated ones
    b'{"z":[],"data":{"Z":null,"DEVICE_ID":"0848086072","A":true,"Z":{"b":1,"a":[2,[]]}},'
    b'"timestamp":"t","a":0}',
    # the device's own spaces, escapes and letters
    b' {"timestamp" : "\\u00f1\\/\\n" ,\t"data":{ "DEVICE_ID":"0848086072", "N":"\xc3\xb1 \xf0\x9f'
    b'\x98\x80 \xe2\x80\xa8 <b>&amp;"}} ',
    # an escaped id is the same device
    b'{"timestamp":"t","data":{"DEVICE_ID":"\\u0030848086072"}}',
    # a timestamp is the device's own, whatever it is
    b'{"timestamp":1733913000.250,"data":{"DEVICE_ID":"0848086072"}}',
    b'{"timestamp":null,"data":{"DEVICE_ID":"0848086072"}}',
    b'{"data":{"DEVICE_ID":"0848086072"},"timestamp":{}}',
]


@on_each_transport
def test_a2_fields_and_numbers_reach_the_client_byte_for_byte(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    with client.open(gateway.port, f"?device_ids={DEVICE}") as wire:
        gateway.wait_subscribers(1)
        for payload in AS_SENT:
            device.publish(TOPIC, payload)
        assert_messages(client, wire, AS_SENT)


@on_each_transport
def test_a2_a_large_payload_reaches_the_client_byte_for_byte(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    sizes = (125 - 27, 126 - 27, 1000, 65535 - 27, 65536)
    padding = [size - len(nested(DEVICE, PAD="")) for size in sizes]
    payloads = [nested(DEVICE, PAD="x" * count) for count in padding]
    assert [len(payload) for payload in payloads] == list(sizes)
    with client.open(gateway.port, f"?device_ids={DEVICE}") as wire:
        gateway.wait_subscribers(1)
        for payload in payloads:
            device.publish(TOPIC, payload)
            assert_messages(client, wire, [payload])


@on_each_transport
def test_a2_only_line_breaks_of_a_pretty_printed_payload_are_compacted_away(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    pretty = json.dumps(json.loads(AS_SENT[0]), indent=2).encode()
    payloads = [pretty, pretty.replace(b"\n", b"\r\n"), b"\r" + pretty + b"\n\n"]
    expected = pretty.replace(b"\n", b"")
    assert b'{  "timestamp": "2024' in expected
    with client.open(gateway.port, f"?device_ids={DEVICE}") as wire:
        gateway.wait_subscribers(1)
        for payload in payloads:
            device.publish(TOPIC, payload)
        assert_messages(client, wire, [expected] * 3)


@on_each_transport
def test_a2_what_lacks_a_timestamp_gets_one(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    payloads = {
        # flat: wrapped
        b'{"DEVICE_ID":"0848086072","SPEED":1.10}': (
            b'{"timestamp":"%b","data":{"DEVICE_ID":"0848086072","SPEED":1.10}}'
        ),
        b' {"A":1 , "DEVICE_ID":848086072,"timestamp":"its own"}\n': (
            b'{"timestamp":"%b","data":{"A":1 , "DEVICE_ID":848086072,"timestamp":"its own"}}'
        ),
        # `data` without an id: still a flat one
        b'{"data":{"LAT":1},"DEVICE_ID":"0848086072"}': (
            b'{"timestamp":"%b","data":{"data":{"LAT":1},"DEVICE_ID":"0848086072"}}'
        ),
        b'{"data":"none","DEVICE_ID":"0848086072"}': (
            b'{"timestamp":"%b","data":{"data":"none","DEVICE_ID":"0848086072"}}'
        ),
        # nested: one in front
        b'{"data":{"DEVICE_ID":"0848086072"},"k":1}': (
            b'{"timestamp":"%b","data":{"DEVICE_ID":"0848086072"},"k":1}'
        ),
        b'\r\n{ "k":1,"data":{"DEVICE_ID":"0848086072"}}': (
            b'{"timestamp":"%b", "k":1,"data":{"DEVICE_ID":"0848086072"}}'
        ),
    }
    with client.open(gateway.port, f"?device_ids={DEVICE},848086072") as wire:
        gateway.wait_subscribers(2)
        for payload, template in payloads.items():
            # Rounded down, like the timestamp.
            before = datetime.now(UTC) - timedelta(milliseconds=1)
            device.publish(TOPIC, payload)
            received = read_message(client, wire)
            after = datetime.now(UTC)
            found = re.search(rb'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"', received)
            assert found is not None
            assert wire.position is not None
            assert received == message_of(wire.position, client, template % found[1])
            assert before <= datetime.fromisoformat(found[1].decode()) <= after


def test_a2_the_nested_id_wins(gateway: Serving, device: Publisher) -> None:
    payload = b'{"DEVICE_ID":"flat","timestamp":"t","data":{"DEVICE_ID":"nested"}}'
    with (
        open_websocket(gateway.port, "?device_ids=flat") as flat,
        open_websocket(gateway.port, "?device_ids=nested") as wire,
    ):
        gateway.wait_subscribers(2)
        device.publish(TOPIC, payload)
        device.publish(TOPIC, nested("flat"))
        assert_messages(WEBSOCKET, wire, [payload])
        assert_messages(WEBSOCKET, flat, [nested("flat")])


@on_each_transport
def test_a2_an_integer_id_is_the_same_device(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    payloads = [
        b'{"timestamp":"t","data":{"DEVICE_ID":848}}',
        b'{"timestamp":"t","data":{"DEVICE_ID":"848"}}',
        b'{"timestamp":"t","data":{"DEVICE_ID":-5}}',
        b'{"timestamp":"t","data":{"DEVICE_ID":123456789012345678901234567890}}',
    ]
    others = [
        b'{"timestamp":"t","data":{"DEVICE_ID":8480}}',
        b'{"timestamp":"t","data":{"DEVICE_ID":"0848"}}',
    ]
    query = "?device_ids=848,-5,123456789012345678901234567890"
    with client.open(gateway.port, query) as wire:
        gateway.wait_subscribers(3)
        for payload in (*others, *payloads):
            device.publish(TOPIC, payload)
        assert_messages(client, wire, payloads)


MALFORMED = {
    b"": "empty",
    b" \n": "empty",
    b"{": "bad_json",
    b"nonsense": "bad_json",
    b'{"timestamp":"t","data":{"DEVICE_ID":"bad"}} x': "bad_json",
    b'{"timestamp":"t","data":{"DEVICE_ID":"bad","N":"\xff"}}': "bad_utf8",
    b'{"timestamp":"t","data":{"DEVICE_ID":"bad","N":' + b"[" * 10_000 + b"]" * 10_000 + b"}}": (
        "too_deep"
    ),
    b'[{"DEVICE_ID":"bad"}]': "not_an_object",
    b'"bad"': "not_an_object",
    b'{"timestamp":"t","data":{"device_id":"bad"}}': "no_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":true}}': "bad_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":848.0}}': "bad_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":null}}': "bad_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":["bad"]}}': "bad_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":""}}': "bad_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":"bad\\n"}}': "bad_device_id",
    b'{"timestamp":"t","data":{"DEVICE_ID":"bad\\u0085"}}': "bad_device_id",
    nested("x" * 129): "bad_device_id",
    nested("bad", PAD="x" * 65536): "too_large",
}


@on_each_transport
def test_a2_what_is_malformed_is_counted_and_sent_to_nobody(
    client: Client, gateway: Serving, device: Publisher
) -> None:
    longest = nested("x" * 128)
    before, processed = gateway.metrics(), gateway.statistics().total_messages_processed
    ids = ["bad", "True", "true", "848.0", "848", "None", "null", "x" * 128]
    with client.open(gateway.port, f"?device_ids={','.join(ids)}") as wire:
        gateway.wait_subscribers(len(ids))
        for payload in MALFORMED:
            device.publish(TOPIC, payload)
        device.publish(TOPIC, longest)
        assert_messages(client, wire, [longest])
    name, after = "tracker_mqtt_malformed_total", gateway.metrics()
    reasons = list(MALFORMED.values())
    labels = {reason: f'reason="{reason}"' for reason in reasons}
    assert {
        reason: after[name, label] - before[name, label] for reason, label in labels.items()
    } == {reason: reasons.count(reason) for reason in labels}
    assert gateway.statistics().total_messages_processed == processed + 1


@pytest.mark.slow
@on_each_transport
def test_a2_the_keep_alive_ping(client: Client, start_gateway: StartGateway) -> None:
    gateway = start_gateway(TRACKER_STREAM__PING_S="0.3")
    ping = {
        WEBSOCKET: text_frame(PING),
        SSE: chunk(b'event: ping\ndata: {"type":"keep-alive"}\n\n'),
        SSE_HTTP10: b'event: ping\ndata: {"type":"keep-alive"}\n\n',
    }[client]
    with client.open(gateway.port, "?device_ids=A") as wire:
        assert_read(wire, ping * 2)
    assert Settings().stream.ping_s == 60


@on_each_transport
def test_a2_what_the_broker_retained_is_old_news(
    client: Client, start_gateway: StartGateway, mosquitto: Mosquitto, device: Publisher
) -> None:
    kept, live = nested("kept", N=1), nested("kept", N=2)
    device.publish("trackers/kept", kept, retain=True)
    device.flush()
    try:
        gateway = start_gateway(TRACKER_API__DEVICES="true")
        gateway.wait_until(
            lambda: gateway.metric("tracker_mqtt_retained_total") == 1, "one retained message"
        )
        assert gateway.statistics() == Statistics(0, 0, 0)
        # It seeds the last known value ...
        status, body = gateway.get("/api/v1/devices")
        assert (status, [one["device_id"] for one in json.loads(body)["devices"]]) == (
            200,
            ["kept"],
        )
        with client.open(gateway.port, "?device_ids=kept") as wire:
            gateway.wait_subscribers(1)
            # ... and is not sent to whoever subscribes. What is published now is new, though
            # the broker will keep that too.
            device.publish("trackers/kept", live, retain=True)
            device.publish(TOPIC, kept)
            assert_messages(client, wire, [live, kept])
        assert gateway.statistics().total_messages_processed == 2
    finally:
        device.publish("trackers/kept", b"", retain=True)
        device.flush()


@pytest.mark.slow
def test_a2_retained_messages_handed_over_again_are_still_old_news(
    tmp_path: Path,
) -> None:
    """A broker that keeps them over a restart hands them over at every subscription."""
    store = f"persistence true\npersistence_location {tmp_path}/\nautosave_interval 1"
    kept, live = nested("kept", N=1), nested("kept", N=2)
    with Mosquitto(tmp_path, extra=store) as broker:
        with Publisher(broker.port) as device:
            device.publish("trackers/kept", kept, retain=True)
            device.flush()
        with Serving(tmp_path, broker.url, environment=QUIET | AT_ONCE) as gateway:
            gateway.wait_ready()
            with open_websocket(gateway.port, "?device_ids=kept") as wire:
                gateway.wait_subscribers(1)
                broker.stop()  # in order, so that it saves
                broker.start()
                gateway.wait_until(
                    lambda: gateway.metric("tracker_mqtt_retained_total") == 2,
                    "the retained message a second time",
                )
                with Publisher(broker.port) as device:
                    device.publish(TOPIC, live)
                # PROTOCOL B4: the broker was away.
                for is_connected in (b"false", b"true"):
                    change = b'{"connected":%b}' % is_connected
                    assert_read(wire, WEBSOCKET.encode(b"upstream", change, None))
                assert_messages(WEBSOCKET, wire, [live])
            assert gateway.statistics().total_messages_processed == 1


# A3: errors

WITHOUT_IDS = ["", "?", "?device_ids", "?device_ids=", "?device_ids=,%20,&device_ids=%09", "?id=A"]


@pytest.mark.parametrize("query", WITHOUT_IDS)
def test_a3_a_websocket_without_ids_is_told_and_closed_with_1008(
    query: str, gateway: Serving
) -> None:
    with Wire(gateway.port) as wire:
        wire.send(handshake_request(query))
        status, headers = read_head(wire)
        assert (status, headers["sec-websocket-accept"]) == ("HTTP/1.1 101", ACCEPT)
        assert_read(wire, text_frame(NO_IDS) + close_frame(1008))
        wire.send(masked_frame(CLOSE, (1008).to_bytes(2, "big")))
        assert wire.read_to_end() == b""
    assert gateway.statistics().active_subscribers == 0


@pytest.mark.parametrize("query", WITHOUT_IDS)
def test_a3_an_sse_request_without_ids_is_answered_with_400_and_the_envelope(
    query: str, gateway: Serving
) -> None:
    with Wire(gateway.port) as wire:
        wire.send(sse_request(query))
        status, headers = read_head(wire)
        del headers["date"]
        assert status == "HTTP/1.1 400"
        assert headers == {"content-type": "application/json", "content-length": "97"}
        # The second answer stands right behind the first.
        wire.send(sse_request(query, version="1.0"))
        assert_read(wire, NO_IDS)
        head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
        assert (parse_head(head)[0], body) == ("HTTP/1.1 400", NO_IDS)
    assert gateway.statistics().active_subscribers == 0


# A4: backpressure


def publish_at_once(gateway: Serving, device: Publisher, payloads: list[bytes]) -> None:
    """Have a gateway that is paused meanwhile find all of them."""
    gateway.pause()
    for payload in payloads:
        device.publish(TOPIC, payload)
    device.flush()
    gateway.resume()


def overwhelm(gateway: Serving, device: Publisher, payloads: list[bytes]) -> None:
    """Publish at once to a client that does not read, and wait until that is done.

    The first write to it is a large one, and its kernel has refused a part of it for good: so
    how much waits does not change any more.
    """
    publish_at_once(gateway, device, payloads)
    gateway.wait_processed(len(payloads))


@on_each_transport
def test_a4_in_a_clients_queue_wait_at_most_100_messages_of_a_device(
    client: Client, start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway()
    payloads = numbered("busy", 400, padding_bytes=1000)
    last = nested("busy", N=400)
    with client.open(
        gateway.port, "?device_ids=busy,calm", receive_buffer_bytes=SMALL_BUFFER_BYTES
    ) as wire:
        gateway.wait_subscribers(2)
        overwhelm(gateway, device, payloads)
        assert gateway.metric("tracker_messages_waiting") == 100
        # The bound is each device's own: another one's message still has its place.
        device.publish(TOPIC, nested("calm"))
        gateway.wait_processed(401)
        metrics = gateway.metrics()
        assert metrics["tracker_messages_waiting", ""] == 101
        dropped = dropped_by_reason(gateway)["buffer_full"]
        assert dropped_by_reason(gateway) == {"buffer_full": dropped, "closed": 0}
        assert metrics["tracker_messages_delivered_total", ""] + dropped + 101 == 401
        # What was dropped is the new; what is left comes in publish order, and a gap stands
        # where the first that was dropped would have stood.
        assert_messages(client, wire, payloads[: 400 - dropped])
        assert_read(wire, Gap("busy", dropped).on(client))
        assert_messages(client, wire, [nested("calm")])
        device.publish(TOPIC, last)
        assert_messages(client, wire, [last])
        assert dropped_by_reason(gateway)["buffer_full"] == dropped


def test_a4_the_limit_of_100_is_a_setting(start_gateway: StartGateway, device: Publisher) -> None:
    gateway = start_gateway(TRACKER_STREAM__BUFFER_MESSAGES="7")
    with open_websocket(gateway.port, "?device_ids=busy", receive_buffer_bytes=SMALL_BUFFER_BYTES):
        gateway.wait_subscribers(1)
        overwhelm(gateway, device, numbered("busy", 300, padding_bytes=1000))
        assert gateway.metric("tracker_messages_waiting") == 7


def test_a4_in_a_clients_queue_waits_at_most_1_mib(
    start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway()
    ids = [f"d{n}" for n in range(40)]
    payloads = [nested(device_id, PAD="x" * 60_000) for device_id in ids]
    size = max(map(len, payloads))
    with open_events(
        gateway.port, f"?device_ids={','.join(ids)}", receive_buffer_bytes=SMALL_BUFFER_BYTES
    ) as wire:
        gateway.wait_subscribers(40)
        overwhelm(gateway, device, payloads)
        metrics = gateway.metrics()
        waiting = int(metrics["tracker_messages_waiting", ""])
        assert waiting == 1024 * 1024 // size
        kept = waiting + int(metrics["tracker_messages_delivered_total", ""])
        assert dropped_by_reason(gateway)["buffer_full"] == 40 - kept > 0
        assert_messages(SSE, wire, payloads[:kept])
        for device_id in ids[kept:]:
            assert_read(wire, Gap(device_id, 1).on(SSE))


def test_a4_one_queue_in_publish_order_over_all_devices(
    start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway()
    turns = itertools.cycle(["A", "B", "A", "C"])
    payloads = [nested(next(turns), N=n, PAD="x" * 1000) for n in range(600)]
    with open_websocket(
        gateway.port, "?device_ids=C,B,A", receive_buffer_bytes=SMALL_BUFFER_BYTES
    ) as wire:
        gateway.wait_subscribers(3)
        overwhelm(gateway, device, payloads)
        dropped = dropped_by_reason(gateway)["buffer_full"]
        # A's share is full long before C's.
        assert 0 < dropped < 300
        heard, accounted = list[int | Gap](), 0
        while accounted < 600:
            heard.append(read_number_or_gap(wire, payloads))
            accounted += heard[-1].dropped if isinstance(heard[-1], Gap) else 1
    received = [each for each in heard if isinstance(each, int)]
    assert received == sorted(set(received))
    assert len(received) == 600 - dropped
    lacking = [n for n in range(600) if n not in received]
    for at, gap in enumerate(heard):
        if isinstance(gap, Gap):
            # It stands where the first message that it tells of would have stood.
            theirs = [n for n in lacking if device_of(payloads[n]) == gap.device_id]
            assert all(n < theirs[0] for n in heard[:at] if isinstance(n, int))
            assert all(n > theirs[0] for n in heard[at:] if isinstance(n, int))
            lacking = [n for n in lacking if n not in theirs[: gap.dropped]]
    assert lacking == []


def device_of(payload: bytes) -> str:
    """Whose message it is."""
    device_id = json.loads(payload)["data"]["DEVICE_ID"]
    assert isinstance(device_id, str)
    return device_id


@on_each_transport
def test_a4_a_burst_of_5000_messages_loses_nothing(
    client: Client, start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway()
    payloads = numbered("burst", 5000)
    # Its kernel has room for a burst that comes faster than Python reads.
    roomy = {"receive_buffer_bytes": ROOMY_BUFFER_BYTES}
    with client.open(gateway.port, "?device_ids=burst", **roomy) as wire:
        gateway.wait_subscribers(1)
        # The client takes what it is sent: whoever shares the processor, it comes first.
        os.setpriority(os.PRIO_PROCESS, gateway.pid, 10)
        publish_at_once(gateway, device, payloads)
        assert_messages(client, wire, payloads)
    metrics = gateway.metrics()
    # They came in batches that no queue would hold ...
    batches = "tracker_mqtt_batch_messages_bucket"
    assert metrics[batches, 'le="+Inf"'] > metrics[batches, 'le="100"']
    # ... and none was dropped, none doubled.
    assert metrics["tracker_messages_delivered_total", ""] == 5000
    assert dropped_by_reason(gateway) == {"buffer_full": 0, "closed": 0}
    assert gateway.lines("Cola llena") == []


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a4_the_warning_tells_every_drop_once(
    log_format: str, start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway("--log-format", log_format, clients=2, **C_LOCALE)
    with (
        open_websocket(gateway.port, "?device_ids=busy", receive_buffer_bytes=SMALL_BUFFER_BYTES),
        open_websocket(gateway.port, "?device_ids=busy") as healthy,
    ):
        gateway.wait_subscribers(2)
        for payload in numbered("busy", 300, padding_bytes=1000):
            device.publish(TOPIC, payload)
            assert_messages(WEBSOCKET, healthy, [payload])
        dropped = dropped_by_reason(gateway)["buffer_full"]
        gateway.wait_until(lambda: told(gateway, log_format)["busy"] == dropped, "all drops told")
    assert 0 < dropped < 200
    assert set(told(gateway, log_format)) == {"busy"}


def told(gateway: Serving, log_format: str) -> dict[str, int]:
    """How many drops of each device its warnings tell; their form is checked."""
    drops: dict[str, int] = {"busy": 0}
    for line in gateway.lines("Cola llena"):
        if log_format == "json":
            record = json.loads(line)
            assert record["level"] == "warning"
            message = record["message"]
            assert f'"{message}"' in line  # these characters, not escapes
        else:
            found = re.fullmatch(r"\S+Z WARNING [\w.]+: (.*)", line)
            assert found is not None
            message = found[1]
        warning = WARNING.fullmatch(message)
        assert warning is not None, line
        assert warning[2] is None or int(warning[2]) > 1
        drops[warning[1]] = drops.get(warning[1], 0) + int(warning[2] or 1)
    return drops


@pytest.mark.slow
def test_a4_the_warnings_are_at_most_one_a_second_for_a_device_and_20_in_all(
    start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway(TRACKER_STREAM__BUFFER_MESSAGES="1")
    ids = [f"d{n}" for n in range(50)]
    with open_websocket(
        gateway.port, f"?device_ids={','.join(ids)}", receive_buffer_bytes=SMALL_BUFFER_BYTES
    ):
        gateway.wait_subscribers(50)
        begun_s = time.monotonic()
        published = 0
        while time.monotonic() < begun_s + 4:
            for device_id in ids:
                device.publish(TOPIC, nested(device_id, PAD="x" * 1000))
            device.flush()
            published += 50
            time.sleep(0.02)
        gateway.wait_processed(published)
        lines = gateway.lines("Cola llena")
        # Counted over the whole time, so a late line makes no difference.
        seconds = int(time.monotonic() - begun_s) + 1
        by_device = [sum(f"device_id {device_id}." in line for line in lines) for device_id in ids]
        assert sum(by_device) == len(lines) <= 20 * seconds
        assert max(by_device) <= seconds
        # Nothing is lost by it: each device has its turn, and the sum is whole at last.
        assert min(by_device) >= 1
        dropped = dropped_by_reason(gateway)["buffer_full"]
        gateway.wait_until(lambda: sum(told(gateway, "text").values()) == dropped, "all drops told")


@pytest.mark.slow
@on_each_transport
def test_a4_a_slow_client_loses_messages_but_is_never_cut(
    client: Client, start_gateway: StartGateway, device: Publisher
) -> None:
    stall_s = 2
    gateway = start_gateway(TRACKER_STREAM__STALL_S=str(stall_s))
    payloads = numbered("busy", 400, padding_bytes=1000)
    with client.open(
        gateway.port, "?device_ids=busy", receive_buffer_bytes=SMALL_BUFFER_BYTES
    ) as wire:
        gateway.wait_subscribers(1)
        overwhelm(gateway, device, payloads)
        dropped = dropped_by_reason(gateway)["buffer_full"]
        assert dropped > 100
        assert_messages(client, wire, payloads[:1])
        assert wire.position is not None
        expected = b"".join(
            message_of(wire.position.plus(n), client, payloads[n]) for n in range(1, 400 - dropped)
        ) + Gap("busy", dropped).on(client)
        # Read so that it takes three times as long as a stalled one would be given.
        received, step = b"", len(expected) // 60
        for _ in range(60):
            received += wire.read(step)
            time.sleep(stall_s * 3 / 60)
        assert received + wire.read(len(expected) - len(received)) == expected
        device.publish(TOPIC, nested("busy"))
        assert_messages(client, wire, [nested("busy")])
        assert gateway.metric("tracker_closed_total", 'reason="stalled"') == 0


@pytest.mark.slow
@on_each_transport
def test_a4_a_stalled_client_is_closed_without_a_close_frame_and_counted(
    client: Client, start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway(clients=2, TRACKER_STREAM__STALL_S="2")
    payloads = numbered("busy", 400, padding_bytes=1000)
    with (
        client.open(
            gateway.port, "?device_ids=busy", receive_buffer_bytes=SMALL_BUFFER_BYTES
        ) as wire,
        client.open(gateway.port, "?device_ids=busy") as healthy,
    ):
        gateway.wait_subscribers(2)
        for at in range(0, 400, 40):
            for payload in payloads[at : at + 40]:
                device.publish(TOPIC, payload)
            assert_messages(client, healthy, payloads[at : at + 40])
        gateway.wait_subscribers(1)
        # Nothing but the beginning of what it was to be sent.
        received = wire.read_to_end()
        assert healthy.position is not None
        sent = [message_of(healthy.position.plus(n - 399), client, payloads[n]) for n in range(400)]
        assert b"".join(sent).startswith(received)
        metrics = gateway.metrics()
        assert {
            labels: value
            for (name, labels), value in metrics.items()
            if name == "tracker_closed_total" and value
        } == {'reason="stalled"': 1}
        # Every message to it is accounted for.
        dropped = dropped_by_reason(gateway)
        delivered = metrics["tracker_messages_delivered_total", ""]
        assert delivered + dropped["buffer_full"] + dropped["closed"] == 2 * 400
        assert 0 < dropped["closed"] <= 100
        # Its neighbour goes on.
        device.publish(TOPIC, nested("busy"))
        assert_messages(client, healthy, [nested("busy")])


def test_a4_ten_seconds_are_the_default() -> None:
    assert Settings().stream.stall_s == 10
    assert (Settings().stream.buffer_messages, Settings().stream.buffer_bytes) == (100, 1024 * 1024)


@pytest.mark.slow
def test_a4_the_rude_slow_nobody(start_gateway: StartGateway, device: Publisher) -> None:
    """Neither a slow nor a stalled client delays the reader of MQTT or another client."""
    gateway = start_gateway(TRACKER_STREAM__STALL_S="1000")
    payloads = numbered("busy", 1000, padding_bytes=1000)
    with contextlib.ExitStack() as stack:
        # first: what the ticker sends to the twenty does not matter
        healthy = stack.enter_context(open_websocket(gateway.port, "?device_ids=busy"))
        gateway.wait_subscribers(1)
        for opener in (open_websocket, open_sse) * 10:
            stack.enter_context(
                opener(gateway.port, "?device_ids=busy", receive_buffer_bytes=SMALL_BUFFER_BYTES)
            )
        gateway.wait_subscribers(21)
        before_bytes = gateway.rss_bytes()
        for payload in payloads:
            device.publish(TOPIC, payload)
            assert_messages(WEBSOCKET, healthy, [payload])
        # What waits for the twenty is shared, and the tails are 64 KiB each.
        assert gateway.metric("tracker_messages_waiting") == 20 * 100
        assert gateway.rss_bytes() - before_bytes < 20 * 256 * 1024
        assert gateway.statistics().active_subscribers == 21


def test_a4_what_the_hand_over_from_mqtt_cannot_hold_is_counted(
    start_gateway: StartGateway, device: Publisher
) -> None:
    gateway = start_gateway(TRACKER_MQTT__INCOMING_LIMIT_MESSAGES="10")
    payloads = numbered("burst", 3000)
    last = nested("burst", N=3000)
    with open_websocket(gateway.port, "?device_ids=burst") as wire:
        gateway.wait_subscribers(1)
        publish_at_once(gateway, device, payloads)

        def discarded() -> int:
            return int(gateway.metric("tracker_mqtt_discarded_total"))

        def processed() -> int:
            return gateway.statistics().total_messages_processed

        gateway.wait_until(
            lambda: discarded() + processed() == 3000, "3000 messages processed or discarded"
        )
        assert discarded() > 0
        device.publish(TOPIC, last)
        payloads.append(last)
        heard = [read_number_or_gap(wire, payloads)]
        while heard[-1] != 3000:
            heard.append(read_number_or_gap(wire, payloads))
        numbers = [each for each in heard if isinstance(each, int)]
        gaps = [each for each in heard if isinstance(each, Gap)]
        # PROTOCOL B4: of which device they were, nobody knows.
        assert gaps == [Gap(None, gap.dropped, "ingest") for gap in gaps]
        lost = sum(gap.dropped for gap in gaps)
        assert numbers == sorted(set(numbers))
        assert lost == discarded() == 3001 - len(numbers)
    assert dropped_by_reason(gateway) == {"buffer_full": 0, "closed": 0}


# A5: statistics


def test_a5_the_first_three_keys(gateway: Serving) -> None:
    status, body = gateway.get(f"{STREAM}/stats")
    assert status == 200
    assert re.match(
        rb'\{"total_messages_processed":\d+,"active_subscribers":0,"devices_being_monitored":0[,}]',
        body,
    )
    assert isinstance(json.loads(body), dict)
    with Wire(gateway.port) as wire:
        wire.send(f"GET {STREAM}/stats HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status_line, headers = read_head(wire)
        assert (status_line, headers["content-type"]) == ("HTTP/1.1 200", "application/json")
        assert int(headers["content-length"]) == len(body)


def test_a5_what_they_mean(gateway: Serving, device: Publisher) -> None:
    start = gateway.statistics()
    with contextlib.ExitStack() as stack:

        def join(client: Client, query: str) -> Wire:
            return stack.enter_context(client.open(gateway.port, query))

        websocket = join(WEBSOCKET, "?device_ids=A,B,A")
        join(SSE, "?device_ids=B,C")
        join(SSE_HTTP10, "?device_ids=B")
        gateway.wait_subscribers(5)
        for payload in (nested("A"), b"malformed", nested("Z"), nested("B")):
            device.publish(TOPIC, payload)
        # One that nobody watches counts, a malformed one does not, and one that three watch
        # counts once.
        assert_messages(WEBSOCKET, websocket, [nested("A"), nested("B")])
        assert gateway.statistics() == Statistics(start.total_messages_processed + 3, 5, 3)
        websocket.close()
        gateway.wait_subscribers(3)
        assert gateway.statistics() == Statistics(start.total_messages_processed + 3, 3, 2)
    gateway.wait_subscribers(0)
    assert gateway.statistics() == Statistics(start.total_messages_processed + 3, 0, 0)


# A6: log lines


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a6_the_start_line_once_the_first_subscription_is_acknowledged(
    log_format: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        url = f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        flags = ("--log-format", log_format)
        with Serving(tmp_path, url, *flags, environment=QUIET | C_LOCALE | AT_ONCE) as gateway:
            with listener.accept()[0] as broker:
                broker.settimeout(20)
                assert broker.recv(4096)[0] == 0x10  # CONNECT
                broker.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted
                subscribe = broker.recv(4096)
                assert subscribe[0] == 0x82
                assert gateway.get("/readyz")[0] == 503
                acknowledged_at = datetime.now(UTC) - timedelta(milliseconds=1)
                broker.sendall(b"\x90\x03" + subscribe[2:4] + b"\x00")  # SUBACK: QoS 0
                line = gateway.wait_line("bridge")
            # The second subscription is no start.
            with listener.accept()[0] as broker:
                broker.settimeout(20)
                broker.recv(4096)
                broker.sendall(b"\x20\x02\x00\x00")
                subscribe = broker.recv(4096)
                broker.sendall(b"\x90\x03" + subscribe[2:4] + b"\x00")
                gateway.wait_until(
                    lambda: (
                        gateway.metric("tracker_mqtt_reconnects_total") == 1
                        and gateway.metric("tracker_mqtt_subscribed") == 1
                    ),
                    "subscribed again",
                )
                assert gateway.stop() == 0
            lines = gateway.lines("bridge")
    assert lines == [line]
    if log_format == "json":
        record = json.loads(line)
        written_at = record.pop("time")
        assert record == {"level": "info", "logger": "tracker.mqtt", "message": STARTED}
        assert f'"message":"{STARTED}"' in line
    else:
        written_at, _, rest = line.partition(" ")
        assert rest == f"INFO    tracker.mqtt: {STARTED}"
    assert datetime.fromisoformat(written_at) >= acknowledged_at


def test_a6_no_start_line_without_a_broker(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"mqtt://127.0.0.1:{nobody.getsockname()[1]}"
        with Serving(tmp_path, url, environment=QUIET) as gateway:
            gateway.wait_line("cannot use")
            assert gateway.get("/healthz")[0] == 200
            assert gateway.stop() == 0
            assert gateway.lines("bridge") == []
