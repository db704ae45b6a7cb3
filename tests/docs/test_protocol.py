"""docs/protocol.md against a running gateway: every transcript, status, reason and default."""

from __future__ import annotations

import json
import re

import pytest

from tests.docs.transcript import run_transcript
from tests.fleet import Fleet, open_fleet
from tests.mosquitto import Mosquitto
from tests.peer import BINARY, CLOSE, PING, PONG, TEXT, Frame, client_frame, handshake, request_head
from tests.snippets import Document
from tracker.domain.decode import (
    DEVICE_ID_LIMIT_CHARS,
    NESTING_LIMIT_LEVELS,
    PAYLOAD_LIMIT_BYTES,
)
from tracker.domain.errors import Malformed
from tracker.domain.notices import DropNotices
from tracker.mqtt.link import STARTED
from tracker.settings import HttpSettings, Settings, StreamSettings

PROTOCOL = Document("docs/protocol.md")
TARGET = "/api/v1/stream?device_ids=A"

pytestmark = pytest.mark.mosquitto


def test_every_fence_is_a_transcript_which_the_next_test_runs() -> None:
    assert {fence.language for fence in PROTOCOL.fences.values()} == {"transcript"}


@pytest.mark.slow
@pytest.mark.parametrize("key", PROTOCOL.fences)
async def test_transcript(key: str, broker: Mosquitto) -> None:
    await run_transcript(PROTOCOL.fence(key), broker)


# Row by row: what the tables and the text say.

STATUS_REQUESTS = {
    200: request_head("/healthz"),
    400: request_head("/api/v1/stream"),
    404: request_head("/nowhere"),
    405: request_head(TARGET, method="DELETE"),
    408: b"GET / HTTP/1.1\r\n",
    413: request_head(TARGET, "Content-Length: 1"),
    426: handshake(TARGET).replace(b"Version: 13", b"Version: 8"),
    431: request_head(f"{TARGET}{'x' * 33_000}"),
    505: request_head(TARGET, version="3.0"),
}


async def test_statuses(broker: Mosquitto) -> None:
    documented = [int(status) for status, _ in PROTOCOL.rows("Statuses")]
    async with open_fleet(broker, http=HttpSettings(read_head_timeout=0.2)) as fleet:
        for status, request in STATUS_REQUESTS.items():
            peer = await fleet.connect()
            await peer.send(request)
            response = await peer.read_response()
            assert response.status == status
            if 400 <= status < 500:
                assert list(json.loads(response.body)) == ["event", "data"]
        broker.kill()
        await fleet.wait_not_ready()
        ready = await fleet.request("/readyz")
        assert (ready.status, list(json.loads(ready.body))) == (503, ["ready", "reason"])
    assert documented == sorted({*STATUS_REQUESTS, 503})


async def _close_code(fleet: Fleet, *frames: bytes) -> int:
    peer = await fleet.connect()
    await peer.send(handshake(TARGET))
    assert (await peer.read_head()).status == 101
    await peer.send(b"".join(frames))
    last: Frame = (await peer.read_frames_to_end())[-1]
    return last.code


async def test_close_codes(broker: Mosquitto) -> None:
    limit = StreamSettings().client_message_bytes
    async with open_fleet(broker) as fleet:
        codes = {
            await _close_code(fleet, client_frame(CLOSE, (1000).to_bytes(2, "big"))),
            await _close_code(fleet, *[client_frame(TEXT, b"x")] * 200),
            await _close_code(fleet, client_frame(TEXT, b"x" * (limit + 1))),
        }
    # 1011 takes a fault in our own code, 1012 and 4408 are said in transcripts, the last row
    # has no code
    documented = [code for code, _, _ in PROTOCOL.rows("Close codes")]
    assert documented[:-1] == [str(code) for code in sorted(codes | {1011, 1012, 4408})]


async def test_empty_and_binary_messages_and_pings_are_no_fault(broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        peer = await fleet.connect()
        await peer.send(handshake(TARGET))
        await peer.read_head()
        await peer.send(
            client_frame(TEXT)
            + client_frame(BINARY)
            + client_frame(BINARY, b"\0")
            + client_frame(PING)
        )
        await fleet.wait_subscribed()
        await fleet.publish("trackers/a", '{"timestamp":1,"data":{"DEVICE_ID":"A"}}')
        assert {(await peer.read_frame()).opcode, (await peer.read_frame()).opcode} == {TEXT, PONG}


MALFORMED = {
    Malformed.EMPTY: b" ",
    Malformed.TOO_LARGE: b"x" * (PAYLOAD_LIMIT_BYTES + 1),
    Malformed.BAD_UTF8: b'"\xff"',
    Malformed.BAD_JSON: b"{",
    Malformed.TOO_DEEP: b'{"DEVICE_ID":"A","a":' + b"[" * 500 + b"]" * 500 + b"}",
    Malformed.NOT_AN_OBJECT: b"[]",
    Malformed.NO_DEVICE_ID: b"{}",
    Malformed.BAD_DEVICE_ID: b'{"DEVICE_ID":1.5}',
}


async def test_reasons_of_malformed_payloads(broker: Mosquitto) -> None:
    documented = [reason for reason, _ in PROTOCOL.rows("What devices publish")]
    assert documented == [f"`{reason.value}`" for reason in Malformed]
    async with open_fleet(broker) as fleet:
        for reason, payload in MALFORMED.items():
            await fleet.publish("trackers/a", payload)
            name = f'tracker_mqtt_malformed_total{{reason="{reason.value}"}}'
            assert await fleet.metric(name) == 1


async def test_statistics_keys(broker: Mosquitto) -> None:
    async with open_fleet(broker) as fleet:
        statistics = json.loads((await fleet.request("/api/v1/stream/stats")).body)
    documented = [key.strip("`") for key, _ in PROTOCOL.rows("`/api/v1/stream/stats`")]
    assert documented == list(statistics)


def test_log_lines() -> None:
    notices = DropNotices()
    notices.count("X")
    notices.count("X")
    line, *_ = notices.due(0.0)
    documented = [row[0].strip("`") for row in PROTOCOL.rows("Log lines")]
    assert documented == [STARTED, line.partition(" (2 ")[0]]


def test_limits_are_those_of_the_code() -> None:
    """`100 messages of each device (`stream.buffer_messages`)`: number, then its setting."""
    text = " ".join(PROTOCOL.text.split())
    settings = Settings()
    units = {"KiB": 1024, "MiB": 1024**2, "s": 1, "": 1}
    found = {}
    for number, unit, between, branch, name in re.findall(
        r"(\d+) ?(KiB|MiB|s|)\b([^()`\d]*)\(`(stream|http|api)\.(\w+)`", text
    ):
        assert len(between) < 60
        found[name] = int(number) * units[unit] == getattr(getattr(settings, branch), name)
    assert found == dict.fromkeys(
        [
            *("max_device_ids", "ping_s", "heartbeat_s", "client_message_bytes"),
            *("client_messages_per_s", "buffer_messages", "buffer_bytes", "stall_s"),
            *("history_messages", "history_age_s", "history_bytes"),
            *("read_head_timeout", "h11_max_incomplete_size"),
        ],
        True,
    )
    assert f"{settings.api.ready_grace_s:g} s" in text
    assert f"at most {DEVICE_ID_LIMIT_CHARS} characters" in text
    assert f"larger than {PAYLOAD_LIMIT_BYTES // 1024} KiB" in text
    assert f"more than {NESTING_LIMIT_LEVELS} levels" in text


async def test_a_client_that_comes_during_a_stop_is_sent_away(broker: Mosquitto) -> None:
    async with open_fleet(broker, stream=StreamSettings(drain_s=1.0)) as fleet:
        first, second = [await fleet.connect() for _ in range(2)]
        for peer in (first, second):
            await peer.open_sse("A")
        await fleet.wait_subscribed(2)
        fleet.gateway.stop()
        assert (await first.read_chunk()).startswith(b"id: ")
        await first.read_chunk()  # the stop has begun; the second stream has its turn later
        late = await fleet.connect()
        await late.open_sse("A")
        assert (await late.read_chunk()).startswith(b"id: ")
        assert b"event: reconnect" in await late.read_chunk()
