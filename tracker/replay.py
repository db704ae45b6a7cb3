"""Recorded vehicles, published again as if they drove now.

A recording is newline-delimited JSON, plain or gzip, a report a line, sorted by time:

    {"t":7.0,"id":"4836","lat":53.44748,"lon":-2.91731,"speed":null,"heading":53.0,"route":"14"}

`t` is in seconds since the recording began, `speed` in metres a second and `heading` in degrees
(either may be null or absent), and whatever else stands there travels along.

Theory of operation. `read_recording` parses at the edge. `schedule` is pure: it turns recordings
into one endless or finite sequence of `Due`, each with its time in seconds since the replay
began. `payload` is pure as well. `run_replay` is the shell: it waits for each due time, counted
from one fixed start, so that the lateness of one publish never adds to the next, and publishes.

Looping. Each recording loops by itself, so a short one does not fall silent until the longest
has ended. From its last report to the first of the next round passes the recording's mean
interval: the rate at the seam is the rate of the recording, neither a burst nor a hole.
"""

from __future__ import annotations

import enum
import gzip
import heapq
import importlib.resources
import logging
import math
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources.abc import Traversable
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

import msgspec
import trio
from msgspec import Meta

from tracker.mqtt import MqttError

__all__ = [
    "DEFAULT_TOPIC",
    "Due",
    "Publisher",
    "Record",
    "Recording",
    "RecordingError",
    "Repeat",
    "bundled_recordings",
    "payload",
    "read_recording",
    "run_replay",
    "schedule",
]

DEFAULT_TOPIC = "trackers/{device_id}"
RECONNECT_MIN_S = 0.5
RECONNECT_MAX_S = 10.0
GZIP_MAGIC = b"\x1f\x8b"
COLUMNS = ("t", "id", "lat", "lon", "speed", "heading")
KEYS = frozenset({"DEVICE_ID", "LAT", "LON", "SPEED", "HEADING"})
SHAPE = '{"t": seconds, "id": "…", "lat": degrees, "lon": degrees, "speed": …, "heading": …}'

log = logging.getLogger(__name__)


class RecordingError(ValueError):
    """A recording cannot be read. Its text names the file, the line and what was expected."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One report of one vehicle. `extras` holds all other columns, upper-cased."""

    t_s: Annotated[float, Meta(ge=0)] = msgspec.field(name="t")
    # no control characters (no device may have them) and no wildcards (no topic may)
    device_id: Annotated[
        str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f+#]*\Z")
    ] = msgspec.field(name="id")
    lat_deg: Annotated[float, Meta(ge=-90, le=90)] = msgspec.field(name="lat")
    lon_deg: Annotated[float, Meta(ge=-180, le=180)] = msgspec.field(name="lon")
    speed_m_s: Annotated[float, Meta(ge=0)] | None = msgspec.field(name="speed", default=None)
    heading_deg: Annotated[float, Meta(ge=0, le=360)] | None = msgspec.field(
        name="heading", default=None
    )
    extras: dict[str, Any] = msgspec.field(default_factory=dict)


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """A named, non-empty sequence of reports, sorted by time."""

    name: str
    records: tuple[Record, ...]

    @property
    def span_s(self) -> float:
        """Seconds from the beginning to the last report."""
        return self.records[-1].t_s

    @property
    def period_s(self) -> float:
        """Seconds from the beginning of one round of a loop to that of the next."""
        mean_interval_s = self.span_s / max(1, len(self.records) - 1)
        # where all stands at one instant there is no rate to keep: once a second
        return self.span_s + (mean_interval_s or 1.0)


class Repeat(enum.Enum):
    """What happens at the end of a recording."""

    ONCE = "once"
    FOREVER = "forever"


@dataclass(frozen=True, slots=True)
class Due:
    """A report, and when to publish it, in seconds since the replay began."""

    at_s: float
    record: Record


class Publisher(Protocol):
    """What `run_replay` needs of an MQTT client: `tracker.mqtt.Client`, or a fake."""

    async def __aenter__(self) -> Self:
        """Connect."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
        /,
    ) -> None:
        """Disconnect."""

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        """Publish, or raise MqttError."""


def read_recording(source: Path | Traversable) -> Recording:
    """Read a recording, plain or gzip. Empty lines are skipped.

    Raises: RecordingError, naming file and line; OSError, when it cannot be opened.
    """
    data = source.read_bytes()
    if data.startswith(GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise RecordingError(f"{source}: broken gzip file: {error}") from None
    return parse_recording(source.name, data)


def bundled_recordings() -> tuple[Recording, ...]:
    """The recordings that come with the package: vessels in New York, buses in Liverpool."""
    folder = importlib.resources.files("tracker.data")
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".ndjson.gz")]
    return tuple(read_recording(file) for file in sorted(files, key=lambda file: file.name))


def parse_recording(name: str, data: bytes) -> Recording:
    """Parse newline-delimited JSON. Raises: RecordingError, naming `name` and the line."""
    records: list[Record] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = _parse_line(line)
        except (ValueError, RecursionError) as error:
            raise RecordingError(f"{name}, line {number}: {error}; a line is {SHAPE}") from None
        if records and record.t_s < records[-1].t_s:
            raise RecordingError(
                f"{name}, line {number}: t is {record.t_s:g} after {records[-1].t_s:g}; "
                "expected lines sorted by t"
            )
        records.append(record)
    if not records:
        raise RecordingError(f"{name}: no report in it; a line is {SHAPE}")
    return Recording(name=name, records=tuple(records))


def payload(record: Record, now_utc: datetime) -> bytes:
    """A report as a device would send it at `now_utc`, as JSON.

        {"timestamp":"2026-01-26T15:55:12.000Z","data":{"DEVICE_ID":"4836","LAT":…,"LON":…,…}}

    Keys are upper-cased, values unchanged (`SPEED` in metres a second). `SPEED` and `HEADING`
    are left out when unknown, rather than null: in JavaScript null counts as 0, and a vehicle
    of unknown speed would seem to stand still, pointing north.
    """
    data: dict[str, Any] = {
        "DEVICE_ID": record.device_id,
        "LAT": record.lat_deg,
        "LON": record.lon_deg,
    }
    if record.speed_m_s is not None:
        data["SPEED"] = record.speed_m_s
    if record.heading_deg is not None:
        data["HEADING"] = record.heading_deg
    data.update(record.extras)
    timestamp = now_utc.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return msgspec.json.encode({"timestamp": timestamp, "data": data})


def schedule(
    recordings: Sequence[Recording], *, speed: float, repeat: Repeat = Repeat.ONCE
) -> Iterator[Due]:
    """Merge recordings into one sequence, in order of time, `speed` times as fast as they were.

    Reports of the same instant keep the order of `recordings`, and within one that of its lines.

    Raises: ValueError, when `speed` is not a finite number above 0.
    """
    if not (math.isfinite(speed) and speed > 0):
        raise ValueError(f"speed is {speed!r}; expected a finite number above 0")
    rounds = [_rounds(recording, speed, repeat) for recording in recordings]
    return heapq.merge(*rounds, key=lambda due: due.at_s)


def _rounds(recording: Recording, speed: float, repeat: Repeat) -> Iterator[Due]:
    began_s = 0.0
    while True:
        for record in recording.records:
            yield Due((began_s + record.t_s) / speed, record)
        if repeat is Repeat.ONCE:
            return
        began_s += recording.period_s


def _parse_line(line: bytes) -> Record:
    fields = msgspec.json.decode(line, type=dict[str, Any])
    known = {column: fields.pop(column) for column in COLUMNS if column in fields}
    extras: dict[str, Any] = {}
    for column, value in fields.items():
        key = column.upper()
        if key in KEYS or key in extras:
            raise ValueError(f"column {column!r} would become a second {key}")
        extras[key] = value
    return msgspec.convert({**known, "extras": extras}, Record)


async def run_replay(
    client: Publisher,
    due: Iterator[Due],
    *,
    topic: str = DEFAULT_TOPIC,
    qos: int = 0,
    utc_now: Callable[[], datetime] = lambda: datetime.now(UTC),
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Publish what `schedule` yields, each at its time; return at its end.

    `client` is not yet connected; `started()` is called once it is. `{device_id}` in `topic` is
    replaced. Due times count from the moment of connecting. While the broker is away the clock
    of the recording stands still: it goes on where it stopped, so that there is neither a loss
    nor a burst. The report in hand when the broker left is published again.

    Cancellation: the client is disconnected. One report has been taken from `due` beyond those
    known to be published: it was waited for, or may have been published.
    """
    current = next(due, None)
    started = False
    backoff_s = RECONNECT_MIN_S
    away = False
    while current is not None:
        try:
            async with client:
                start_s = trio.current_time() - current.at_s
                if not started:
                    task_status.started()
                    started = True
                while current is not None:
                    await trio.sleep_until(start_s + current.at_s)
                    await client.publish(
                        topic.replace("{device_id}", current.record.device_id),
                        payload(current.record, utc_now()),
                        qos=qos,
                    )
                    if away:
                        log.info("replay: the broker is back")
                        away = False
                    backoff_s = RECONNECT_MIN_S
                    current = next(due, None)
        except MqttError as error:
            if not away:
                log.warning("replay: no broker (%s); trying again until it is there", error)
                away = True
        if current is not None:
            # jitter: many replays of one broker do not come back in one burst
            await trio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, RECONNECT_MAX_S)
