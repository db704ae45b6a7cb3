"""`tracker.watch.message`: what the gateway says, as types."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.watch.message import Event, Message, UndecodableError, decode

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
    assert later == decode(f'{{"event":"message","data":{INNER}}}')


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
