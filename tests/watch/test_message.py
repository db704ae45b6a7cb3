"""`tracker.watch.message`: what the gateway says, as types."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.watch.message import (
    Event,
    Gap,
    Message,
    ModeChanged,
    Report,
    Resume,
    ResumeStatus,
    Snapshot,
    Track,
    UndecodableError,
    Upstream,
    decode,
)

INNER = (
    '{"timestamp":"2024-12-11T10:30:00Z","data":'
    '{"DEVICE_ID":"0848086072","LAT":-33.4567,"BIG":123456789012345678901234567890,"X":1.10}}'
)


def test_a_message_is_exact() -> None:
    assert decode(f'{{"event":"message","data":{INNER}}}') == Message(
        device_id="0848086072",
        timestamp="2024-12-11T10:30:00Z",
        data={
            "DEVICE_ID": "0848086072",
            "LAT": -33.4567,
            "BIG": 123456789012345678901234567890,
            "X": 1.1,
        },
        text=INNER,
    )


def test_what_later_gateways_add_changes_nothing() -> None:
    later = decode(f'{{"event":"message","id":"7-1","data":{INNER},"more":[1]}}')
    assert isinstance(later, Message)
    assert later.id == "7-1"
    assert msgspec.structs.replace(later, id="") == decode(f'{{"event":"message","data":{INNER}}}')


@pytest.mark.parametrize("kind", [Snapshot, Track])
def test_the_past_has_kinds_of_its_own(kind: type[Report]) -> None:
    told = decode(f'{{"event":"{kind.__name__.lower()}","data":{INNER}}}')
    assert type(told) is kind
    assert told.text == INNER
    assert told.device_id == "0848086072"


@pytest.mark.parametrize(
    ("name", "text", "event"),
    [
        (
            "gap",
            '{"device_id":"A","dropped":2,"reason":"buffer_full","more":1}',
            {"kind": Gap, "device_id": "A", "dropped": 2, "reason": "buffer_full"},
        ),
        (
            "gap",
            '{"device_id":null,"dropped":9,"reason":"ingest"}',
            {"kind": Gap, "device_id": None, "dropped": 9, "reason": "ingest"},
        ),
        (
            "resume",
            '{"status":"partial","missed":null,"position":"e-7"}',
            {"kind": Resume, "status": ResumeStatus.PARTIAL, "missed": None, "position": "e-7"},
        ),
        ("upstream", '{"connected":false}', {"kind": Upstream, "connected": False}),
        (
            "mode",
            '{"mode":"latest","reason":"too slow"}',
            {"kind": ModeChanged, "mode": "latest", "reason": "too slow"},
        ),
        # not as we know it
        ("gap", '{"device_id":"A","dropped":-1}', {"kind": Event}),
        ("resume", '{"status":"mostly"}', {"kind": Event}),
        ("upstream", "[]", {"kind": Event}),
        ("mode", "{}", {"kind": Event}),
    ],
)
def test_events_have_types(name: str, text: str, event: dict[str, Any]) -> None:
    kind = event.pop("kind")
    expected = kind(name=name, data=msgspec.json.decode(text), text=text, **event)
    assert decode(f'{{"event":"{name}","data":{text}}}') == expected


def test_keys_of_ours_are_not_taken_from_the_data() -> None:
    text = '{"connected":true,"name":"x","text":"y","data":"z"}'
    assert decode(f'{{"event":"upstream","data":{text}}}') == Upstream(
        name="upstream", data=msgspec.json.decode(text), text=text, connected=True
    )


def test_an_id_may_be_a_number_and_a_timestamp_anything() -> None:
    message = decode(
        '{"event":"message","data":{"timestamp": 1733913000.50, "data":{"DEVICE_ID":848}}}'
    )
    assert isinstance(message, Message)
    assert (message.device_id, message.timestamp, message.time_utc) == (
        "848",
        "1733913000.50",
        None,
    )


@pytest.mark.parametrize(
    ("timestamp", "time_utc"),
    [
        ("2024-12-11T10:30:00Z", datetime(2024, 12, 11, 10, 30, tzinfo=UTC)),
        ("2024-12-11T10:30:00.250-03:00", datetime(2024, 12, 11, 13, 30, 0, 250_000, tzinfo=UTC)),
        ("2024-12-11T10:30:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
    ],
)
def test_time(timestamp: str, time_utc: datetime | None) -> None:
    assert Message(device_id="1", timestamp=timestamp, data={}, text="").time_utc == time_utc


def test_other_events() -> None:
    assert decode('{"event":"reconnect","data":{"after_ms":10, "reason":"shutdown"}}') == Event(
        name="reconnect",
        data={"after_ms": 10, "reason": "shutdown"},
        text='{"after_ms":10, "reason":"shutdown"}',
    )
    assert decode('{"event":"new"}') == Event(name="new", data=None, text="null")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "[]",
        '{"data":{}}',
        '{"event":"message"}',
        '{"event":"message","data":{"timestamp":"x","data":[]}}',
        '{"event":"message","data":{"timestamp":"x","data":{}}}',
        '{"event":"message","data":{"timestamp":"x","data":{"DEVICE_ID":true}}}',
        '{"event":"message","data":{"timestamp":"x","data":{"DEVICE_ID":1.5}}}',
        '{"event":"x","data":' + "[" * 10_000 + "]" * 10_000 + "}",
    ],
)
def test_what_is_not_of_the_contract(text: str) -> None:
    with pytest.raises(UndecodableError):
        decode(text)


@given(st.text() | st.text(alphabet='{}[]":,event messagdat1'))
def test_whatever_the_text_there_is_no_other_error(text: str) -> None:
    with contextlib.suppress(UndecodableError):
        decode(text)
