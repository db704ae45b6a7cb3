"""`tracker.replay`: the format, the laws of the schedule, and the shell on virtual time."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.resources
import itertools
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tracker.embedded import open_broker
from tracker.mqtt import Client, MqttError
from tracker.replay import (
    Due,
    Record,
    Recording,
    RecordingError,
    Repeat,
    bundled_recordings,
    parse_recording,
    payload,
    read_recording,
    run_replay,
    schedule,
)

DATA_LIMIT_BYTES = 2 * 1024 * 1024
NOW = datetime(2026, 1, 26, 15, 55, 12, 34_567, tzinfo=UTC)


def record(t_s: float, device_id: str = "1") -> Record:
    return Record(t_s=t_s, device_id=device_id, lat_deg=1.5, lon_deg=-2.5)


def recording(*times_s: float, name: str = "made up") -> Recording:
    return Recording(name=name, records=tuple(record(t_s, name) for t_s in times_s))


# The format


def test_a_line_with_everything() -> None:
    line = b'{"t":7.0,"id":"4836","lat":53.4,"lon":-2.9,"speed":null,"heading":53.0,"route":"14"}'
    assert parse_recording("bus", line) == Recording(
        name="bus",
        records=(
            Record(
                t_s=7.0,
                device_id="4836",
                lat_deg=53.4,
                lon_deg=-2.9,
                speed_m_s=None,
                heading_deg=53.0,
                extras={"ROUTE": "14"},
            ),
        ),
    )


SHAPE = '{"t": seconds, "id": "…", "lat": degrees, "lon": degrees, "speed": …, "heading": …}'
GOOD = b'{"t":2,"id":"1","lat":1,"lon":2}\n'


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", f"x.ndjson: no report in it; a line is {SHAPE}"),
        (b"\n \n", f"x.ndjson: no report in it; a line is {SHAPE}"),
        (
            GOOD + b"[]",
            f"x.ndjson, line 2: Expected `object`, got `array`; a line is {SHAPE}",
        ),
        (
            GOOD + b"\n{",
            f"x.ndjson, line 3: Input data was truncated; a line is {SHAPE}",
        ),
        (
            b'{"t":"2","id":"1","lat":1,"lon":2}',
            f"x.ndjson, line 1: Expected `float`, got `str` - at `$.t`; a line is {SHAPE}",
        ),
        (
            b'{"t":2,"id":"1","lat":1}',
            f"x.ndjson, line 1: Object missing required field `lon`; a line is {SHAPE}",
        ),
        (
            b'{"t":2,"id":"1","lat":91,"lon":2}',
            f"x.ndjson, line 1: Expected `float` <= 90.0 - at `$.lat`; a line is {SHAPE}",
        ),
        (
            b'{"t":2,"id":"1","lat":1,"lon":2,"Lat":3}',
            f"x.ndjson, line 1: column 'Lat' would become a second LAT; a line is {SHAPE}",
        ),
        (
            GOOD + b'{"t":1.5,"id":"1","lat":1,"lon":2}',
            "x.ndjson, line 2: t is 1.5 after 2; expected lines sorted by t",
        ),
    ],
)
def test_an_error_names_file_and_line(data: bytes, error: str) -> None:
    with pytest.raises(RecordingError) as caught:
        parse_recording("x.ndjson", data)
    assert str(caught.value) == error


@pytest.mark.parametrize("device_id", ["", "a+b", "a#", "a\\u0000", "a\\n", "x" * 129])
def test_an_id_that_no_device_or_no_topic_can_have(device_id: str) -> None:
    line = f'{{"t":0,"id":"{device_id}","lat":1,"lon":2}}'.encode()
    with pytest.raises(RecordingError, match=r"x, line 1: Expected `str`.* - at `\$\.id`"):
        parse_recording("x", line)


@given(st.binary() | st.text(alphabet='[{"t":1,0}\n').map(str.encode))
def test_whatever_the_bytes_there_is_no_other_error(data: bytes) -> None:
    with contextlib.suppress(RecordingError):
        parse_recording("x", data)


def test_plain_and_gzip_files_are_the_same(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    plain.write_bytes(GOOD)
    packed.write_bytes(gzip.compress(GOOD))
    assert read_recording(plain).records == read_recording(packed).records


def test_a_broken_gzip_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(GOOD)[:-4])
    with pytest.raises(RecordingError, match=r"a\.gz: broken gzip file: "):
        read_recording(path)


# The payload


def test_payload_is_exact() -> None:
    full = Record(
        t_s=7.0,
        device_id="4836",
        lat_deg=53.44748,
        lon_deg=-2.91731,
        speed_m_s=9.77,
        heading_deg=53.0,
        extras={"TRIP": "1089", "ROUTE": "14"},
    )
    assert payload(full, NOW) == (
        b'{"timestamp":"2026-01-26T15:55:12.034Z","data":{"DEVICE_ID":"4836","LAT":53.44748,'
        b'"LON":-2.91731,"SPEED":9.77,"HEADING":53.0,"TRIP":"1089","ROUTE":"14"}}'
    )


def test_what_is_unknown_is_left_out() -> None:
    assert payload(record(0.0), NOW) == (
        b'{"timestamp":"2026-01-26T15:55:12.034Z","data":{"DEVICE_ID":"1","LAT":1.5,"LON":-2.5}}'
    )


def test_timestamp_is_utc_with_milliseconds_whatever_the_clock() -> None:
    elsewhere = datetime(2026, 1, 26, 12, 0, 0, tzinfo=timezone(timedelta(hours=-3)))
    assert payload(record(0.0), elsewhere).startswith(b'{"timestamp":"2026-01-26T15:00:00.000Z",')


# The schedule

times = st.lists(st.floats(0, 10_000), min_size=1, max_size=20).map(sorted)
some_recordings = st.lists(times, min_size=1, max_size=3).map(
    lambda rows: [recording(*row, name=str(index)) for index, row in enumerate(rows)]
)
speeds = st.floats(0.01, 1000)


@given(some_recordings, speeds)
def test_once_everything_comes_at_its_time_in_order(
    recordings: list[Recording], speed: float
) -> None:
    due = list(schedule(recordings, speed=speed))
    assert [one.at_s for one in due] == sorted(one.at_s for one in due)
    assert all(one.at_s == one.record.t_s / speed for one in due)
    for each in recordings:
        mine = [one.record for one in due if one.record.device_id == each.name]
        assert mine == list(each.records)


@given(some_recordings, speeds, st.integers(1, 4))
def test_looping_repeats_each_recording_with_its_own_period(
    recordings: list[Recording], speed: float, rounds: int
) -> None:
    wanted = {each.name: len(each.records) * rounds for each in recordings}
    endless = schedule(recordings, speed=speed, repeat=Repeat.FOREVER)
    seen: dict[str, list[Due]] = {each.name: [] for each in recordings}
    last_s = 0.0
    # a short recording goes round often before a long one has: bound what is looked at
    for due in itertools.islice(endless, 1000):
        assert due.at_s >= last_s
        last_s = due.at_s
        seen[due.record.device_id].append(due)
        if all(len(seen[name]) >= count for name, count in wanted.items()):
            break
    for each in recordings:
        for index, due in enumerate(seen[each.name]):
            done, place = divmod(index, len(each.records))
            assert due.record is each.records[place]
            expected_s = (done * each.period_s + each.records[place].t_s) / speed
            assert math.isclose(due.at_s, expected_s, rel_tol=1e-9)


@given(times)
def test_the_seam_of_a_loop_keeps_the_rate(row: list[float]) -> None:
    """From the last report to the next round passes the mean interval: no burst, no hole."""
    looped = recording(*row)
    seam_s = looped.period_s - looped.span_s
    assert seam_s > 0 or math.isclose(looped.period_s, looped.span_s)
    if len(row) > 1 and looped.span_s > 0:
        assert math.isclose(looped.span_s / (len(row) - 1) + looped.span_s, looped.period_s)


def test_a_recording_of_one_instant_loops_once_a_second() -> None:
    due = schedule([recording(0, 0)], speed=2, repeat=Repeat.FOREVER)
    assert [one.at_s for one in itertools.islice(due, 6)] == [0, 0, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("speed", [0, -1, math.inf, math.nan])
def test_a_speed_that_is_none(speed: float) -> None:
    with pytest.raises(ValueError, match=r"speed is .*; expected a finite number above 0"):
        schedule([recording(0)], speed=speed)


# The shell, on virtual time


class FakeBroker:
    """Notes what is published, and when; is away in the given spans of time (seconds)."""

    def __init__(self, *away: tuple[float, float], publish_takes_s: float = 0.0) -> None:
        self.away = away
        self.publish_takes_s = publish_takes_s
        self.connected = False
        self.published: list[tuple[float, str]] = []
        self.payloads: list[bytes] = []

    def check(self) -> None:
        if any(begin <= trio.current_time() < end for begin, end in self.away):
            raise MqttError("it is away")

    async def __aenter__(self) -> FakeBroker:
        await trio.lowlevel.checkpoint()
        self.check()
        assert not self.connected
        self.connected = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.connected = False

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        assert self.connected
        await trio.sleep(self.publish_takes_s)
        self.check()
        self.published.append((trio.current_time(), topic))
        self.payloads.append(payload)


def due_at(*times_s: float) -> Iterator[Due]:
    return iter([Due(at_s, record(at_s, f"{at_s:g}")) for at_s in times_s])


async def test_publishes_each_report_at_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    broker = FakeBroker()
    await run_replay(broker, due_at(0, 1, 1, 2.5), topic="a/{device_id}/b", utc_now=lambda: NOW)
    assert broker.published == [(0, "a/0/b"), (1, "a/1/b"), (1, "a/1/b"), (2.5, "a/2.5/b")]
    assert broker.payloads[3] == payload(record(2.5, "2.5"), NOW)
    assert not broker.connected


async def test_lateness_does_not_add_up(autojump_clock: trio.testing.MockClock) -> None:
    broker = FakeBroker(publish_takes_s=0.75)
    await run_replay(broker, due_at(0, 1, 2, 2, 2, 10))
    assert [at_s for at_s, _ in broker.published] == [0.75, 1.75, 2.75, 3.5, 4.25, 10.75]


async def test_while_the_broker_is_away_the_recording_stands_still(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    broker = FakeBroker((2, 60))
    caplog.set_level("INFO", "tracker.replay")
    await run_replay(broker, due_at(0, 1, 2, 3, 4))
    assert [topic for _, topic in broker.published] == [f"trackers/{n}" for n in range(5)]
    at_s = [at_s for at_s, _ in broker.published]
    assert at_s[:2] == [0, 1]
    # back at most one pause after it is there, then the old rhythm
    assert 60 <= at_s[2] <= 70
    assert [at - at_s[2] for at in at_s[2:]] == pytest.approx([0, 1, 2])
    assert [entry.getMessage() for entry in caplog.records] == [
        "replay: no broker (it is away); trying again until it is there",
        "replay: the broker is back",
    ]


async def test_waits_for_a_broker_that_is_not_there_yet(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    broker = FakeBroker((0, 5))
    await nursery.start(run_replay, broker, due_at(0, 100))
    assert broker.connected
    assert 5 <= trio.current_time() <= 15
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("cancel_at_s", "published", "left"),
    [(0.0, 0, [1, 2]), (0.6, 1, [2]), (1.1, 1, [2]), (1.5, 2, [])],
)
async def test_cancelled_it_disconnects_and_has_taken_at_most_one_report_more(
    autojump_clock: trio.testing.MockClock, cancel_at_s: float, published: int, left: list[float]
) -> None:
    broker = FakeBroker(publish_takes_s=0.25)
    due = due_at(0, 1, 2)
    with trio.move_on_after(cancel_at_s):
        await run_replay(broker, due)
    assert not broker.connected
    assert len(broker.published) == published
    assert [one.at_s for one in due] == left


# The shell, against a real broker


@pytest.mark.slow
async def test_with_our_client_and_a_broker_that_dies(nursery: trio.Nursery) -> None:
    """The recording goes on behind what was published, in order, to its end.

    What the dying broker held, and what came before the new one had its subscriber, is lost.
    """
    records = tuple(record(index / 100, f"{index:03}") for index in range(200))
    due = schedule([Recording(name="made up", records=records)], speed=1)
    received: list[str] = []
    with trio.fail_after(30):
        async with open_broker() as broker:
            publisher = Client(broker.host, broker.port)
            async with Client(broker.host, broker.port) as subscriber:
                await subscriber.subscribe("trackers/#")
                await nursery.start(run_replay, publisher, due)
                while len(received) < 50:
                    received.append((await anext(subscriber.messages)).topic.value)
        async with (
            open_broker(port=broker.port),
            Client(broker.host, broker.port) as subscriber,
        ):
            await subscriber.subscribe("trackers/#")
            while received[-1] != "trackers/199":
                received.append((await anext(subscriber.messages)).topic.value)
    assert received[:50] == [f"trackers/{index:03}" for index in range(50)]
    assert received == sorted(received)


# The bundled data


def test_bundled_recordings_are_what_their_readme_says() -> None:
    folder = importlib.resources.files("tracker.data")
    readme = (folder / "README.md").read_text("utf-8")
    stated = {
        cells[1].strip(" `"): cells[5].strip(" `")
        for cells in (line.split("|") for line in readme.splitlines())
        if len(cells) == 7 and ".ndjson.gz" in cells[1]
    }
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".gz")]
    assert stated == {
        file.name: hashlib.sha256(gzip.decompress(file.read_bytes())).hexdigest() for file in files
    }
    # reproducible: no time stamp and no file name in the header (RFC 1952 §2.3)
    assert {file.read_bytes()[3:8] for file in files} == {bytes(5)}


def test_bundled_data_state_origin_and_licence_and_are_small() -> None:
    folder = importlib.resources.files("tracker.data")
    readme = (folder / "README.md").read_text("utf-8")
    assert (
        "Contains public sector information licensed under the Open Government Licence v3.0."
        in readme
    )
    for origin in ("MarineCadastre.gov", "public domain", "Bus Open Data Service"):
        assert origin in readme
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    assert sum(len(file.read_bytes()) for file in files) <= DATA_LIMIT_BYTES


def test_bundled_recordings() -> None:
    vessels, buses = bundled_recordings()
    assert [len(vessels.records), len(buses.records)] == [8689, 1533]
    assert [len({one.device_id for one in each.records}) for each in (vessels, buses)] == [295, 8]
    assert [vessels.span_s, buses.span_s] == [3599.0, 8664.0]


def test_bundled_data_can_be_read_from_a_zip_file(tmp_path: Path) -> None:
    """What a package manager may do with a wheel: nothing here needs a real folder."""
    folder = importlib.resources.files("tracker.data")
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for entry in folder.iterdir():
            if entry.is_file():
                packed.writestr(entry.name, entry.read_bytes())
    inside = zipfile.Path(archive, "bus_liverpool_2026.ndjson.gz")
    assert read_recording(inside).records == bundled_recordings()[1].records


@given(st.integers(0, 8688))
def test_every_bundled_report_is_valid_json_of_the_demo_contract(index: int) -> None:
    source = VESSELS[index]
    decoded: dict[str, Any] = json.loads(payload(source, NOW))
    assert list(decoded) == ["timestamp", "data"]
    assert decoded["data"]["DEVICE_ID"] == source.device_id
    assert decoded["data"].get("SPEED") == source.speed_m_s


VESSELS: Sequence[Record] = bundled_recordings()[0].records
