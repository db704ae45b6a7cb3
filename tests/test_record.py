"""`tracker.record`: what becomes a line of a recording, and what is left out."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.record import Recorder, Skipped
from tracker.replay import Record, parse_recording, payload

NOW = datetime(2026, 1, 26, tzinfo=UTC)
SECOND_NS = 1_000_000_000


def line_of(recorder: Recorder, data: dict[str, Any], at_s: float = 0) -> bytes | None:
    body = json.dumps({"timestamp": "t", "data": data}).encode()
    return recorder.line(body, round(at_s * SECOND_NS), is_retained=False)


def test_a_line_is_exact() -> None:
    recorder = Recorder()
    first = {"DEVICE_ID": "4836", "LAT": 53.4, "LON": -2.9, "HEADING": 53.0, "ROUTE": "14"}
    assert line_of(recorder, first, 100) == (
        b'{"t":0.0,"id":"4836","lat":53.4,"lon":-2.9,"speed":null,"heading":53.0,"route":"14"}\n'
    )
    assert line_of(recorder, {"DEVICE_ID": 7, "LAT": 1, "LON": 2, "SPEED": 3}, 107.1234) == (
        b'{"t":7.123,"id":"7","lat":1,"lon":2,"speed":3,"heading":null}\n'
    )
    assert recorder.summary() == "recorded 2 reports of 2 devices"


def test_a_flat_payload_is_a_report_too() -> None:
    line = Recorder().line(b'{"DEVICE_ID":"A","LAT":1,"LON":2}', 0, is_retained=False)
    assert line == b'{"t":0.0,"id":"A","lat":1,"lon":2,"speed":null,"heading":null}\n'


def test_what_is_left_out_is_counted_and_time_begins_with_what_is_not() -> None:
    recorder = Recorder()
    assert recorder.line(b'{"DEVICE_ID":"A","LAT":1,"LON":2}', 0, is_retained=True) is None
    assert recorder.line(b"{", 0, is_retained=False) is None
    for data in ({}, {"LAT": 1}, {"LAT": "1", "LON": 2}, {"LAT": 91, "LON": 2}):
        assert line_of(recorder, {"DEVICE_ID": "A", **data}) is None
    assert line_of(recorder, {"DEVICE_ID": "A+B", "LAT": 1, "LON": 2}) is None
    line = line_of(recorder, {"DEVICE_ID": "A", "LAT": 1, "LON": 2}, 5)
    assert line is not None
    assert json.loads(line)["t"] == 0
    assert recorder.skipped == {
        Skipped.RETAINED: 1,
        Skipped.MALFORMED: 1,
        Skipped.NO_POSITION: 4,
        Skipped.BAD_ID: 1,
    }
    assert recorder.summary() == (
        "recorded 1 report of 1 device; left out: 1 retained, so not of now, 1 not a tracker "
        "message, 4 without a position, 1 of a device whose id no topic can have"
    )


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ({"HEADING": 511, "SPEED": -1}, {"heading": None, "speed": None}),
        ({"HEADING": "north", "SPEED": True}, {"heading": None, "speed": None}),
        ({"T": 1, "ID": 2, "t": 3, "lat": 4, "device_id": 5}, {"T": 1, "ID": 2}),
        ({"Route": "14", "ROUTE": "15"}, {"route": "14"}),
        ({"X": {"a": [1, None]}}, {"x": {"a": [1, None]}}),
    ],
)
def test_columns(data: dict[str, Any], columns: dict[str, Any]) -> None:
    line = line_of(Recorder(), {"DEVICE_ID": "A", "LAT": 1, "LON": 2, **data})
    assert line is not None
    usual = {"t": 0.0, "id": "A", "lat": 1, "lon": 2, "speed": None, "heading": None}
    assert json.loads(line) == usual | columns


numbers = st.floats(0, 300)
keys = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", min_size=1, max_size=12).filter(
    lambda key: key not in {"DEVICE_ID", "LAT", "LON", "SPEED", "HEADING"}
)
values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@given(
    st.builds(
        Record,
        t_s=numbers,
        device_id=st.text("abc0123456789-", min_size=1, max_size=128),
        lat_deg=st.floats(-90, 90),
        lon_deg=st.floats(-180, 180),
        speed_m_s=st.none() | numbers,
        heading_deg=st.none() | st.floats(0, 360),
        extras=st.dictionaries(keys, values, max_size=4),
    )
)
def test_what_a_replay_publishes_is_recorded_as_it_was(record: Record) -> None:
    line = Recorder().line(payload(record, NOW), 0, is_retained=False)
    assert line is not None
    (again,) = parse_recording("again", line).records
    assert again == Record(
        t_s=0,
        device_id=record.device_id,
        lat_deg=record.lat_deg,
        lon_deg=record.lon_deg,
        speed_m_s=record.speed_m_s,
        heading_deg=record.heading_deg,
        extras=record.extras,
    )


@given(st.binary() | st.dictionaries(st.text(), values).map(lambda it: json.dumps(it).encode()))
def test_whatever_comes_what_is_recorded_can_be_replayed(body: bytes) -> None:
    line = Recorder().line(body, 0, is_retained=False)
    assert line is None or len(parse_recording("x", line).records) == 1


@given(st.dictionaries(st.text("tTiIdDlLaAoOnNxX_vVcCeE"), values, max_size=8))
def test_whatever_the_keys_what_is_recorded_can_be_replayed(data: dict[str, Any]) -> None:
    line = line_of(Recorder(), data | {"DEVICE_ID": "A", "LAT": 1, "LON": 2})
    assert line is not None
    assert len(parse_recording("x", line).records) == 1
