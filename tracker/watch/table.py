"""The live table as lines of text. Pure: the same arguments give the same lines.

On a narrow terminal columns go, the least needed first, before any is cut: rate, position,
speed. Device and age stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker.terminal.columns import Column, Elastic, lay_out
from tracker.terminal.text import cells, cut, printable
from tracker.watch.fleet import Row
from tracker.watch.keeper import State, StreamStatistics

#: PROTOCOL A2: on a stream that lives a ping comes every 60 s; a device may be silent for long.
STALE_S = 60.0

_GAP = "  "
#: So much of an id is worth more than another column: an IMEI has 15 digits, a UUID is too long.
_ELASTIC = Elastic(min_cells=8, wanted_cells=20, max_cells=32)
_NONE = "-"

_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"


_DEVICE: Column[Row] = Column("DEVICE", lambda row: printable(row.device_id), is_left=True)
_COLUMNS: tuple[Column[Row], ...] = (
    _DEVICE,
    Column("AGE", lambda row: age(row.age_s), min_cells=6),
    Column("SPEED", lambda row: _speed(row.speed), 3, min_cells=6),
    Column("POSITION", lambda row: position(row.position), 2, min_cells=20),
    Column("RATE", lambda row: rate(row.per_s), 1, min_cells=8),
)
#: There only when something was lost.
_LOST: Column[Row] = Column(
    "LOST", lambda row: str(row.lost) if row.lost else _NONE, 4, min_cells=6
)


def age(age_s: float | None) -> str:
    """`0.4 s`, `12 s`, `5 min`, `3.0 h`, `2.5 d`; `never` for a device that was not heard."""
    if age_s is None:
        return "never"
    if age_s < 9.95:
        return f"{age_s:.1f} s"
    if age_s < 99.5:
        return f"{age_s:.0f} s"
    if age_s < 5970:
        return f"{age_s / 60:.0f} min"
    return f"{age_s / 3600:.1f} h" if age_s < 172_800 else f"{age_s / 86400:.1f} d"


def rate(per_s: float) -> str:
    """`12.5/s`, or `3.0/min` where that is more telling."""
    if per_s == 0:
        return _NONE
    if per_s >= 99.95:
        return f"{per_s:.0f}/s"
    return f"{per_s:.1f}/s" if per_s >= 0.995 else f"{per_s * 60:.1f}/min"


def position(where: tuple[float, float] | None) -> str:
    """Latitude and longitude in degrees."""
    return _NONE if where is None else f"{where[0]:.5f} {where[1]:.5f}"


def render(
    rows: Sequence[Row],
    *,
    title: str,
    statistics: StreamStatistics,
    per_s: float,
    notice: str = "",
    columns: int,
    lines: int,
    colours: bool,
) -> list[str]:
    """The frame: at most `lines` lines of at most `columns` columns each.

    `notice`: what the gateway told last, if it still matters.
    """
    paint = _paint if colours else _plain
    status, colour = _status(statistics)
    counts = _GAP.join(
        (
            rate(per_s) if per_s else "0/s",
            _plural(statistics.reconnects, "reconnect"),
            *([f"{statistics.lost} lost"] if statistics.lost else []),
            _plural(len(rows), "device"),
            printable(title),
        )
    )
    status = cut(status, columns)
    frame = [paint(status, colour) + cut(f"{_GAP}{counts}", columns - cells(status))]
    if statistics.problem:
        frame.append(paint(cut(printable(statistics.problem), columns), _YELLOW))
    if notice:
        frame.append(paint(cut(printable(notice), columns), _YELLOW))
    frame.append("")
    header, table, rest = lay_out(
        rows,
        (*_COLUMNS, _LOST) if any(row.lost for row in rows) else _COLUMNS,
        elastic=(_DEVICE, _ELASTIC),
        width=columns,
        lines=lines - len(frame),
    )
    frame.append(paint(header, _BOLD))
    for row, line in zip(rows, table, strict=False):
        is_stale = row.age_s is None or row.age_s > STALE_S
        frame.append(paint(line, _DIM) if is_stale else line)
    if rest:
        frame.append(paint(rest, _DIM))
    return frame[:lines]


def _status(statistics: StreamStatistics) -> tuple[str, str]:
    state = statistics.state
    if state is State.LIVE:
        return "live", _GREEN
    if state is State.WAITING and statistics.next_attempt_in_s is not None:
        return f"NO CONNECTION, again in {statistics.next_attempt_in_s:.0f} s", _RED
    return state.value, _YELLOW


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _speed(speed: float | None) -> str:
    return _NONE if speed is None else f"{speed:.1f}"


def _paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if text else text


def _plain(text: str, colour: str) -> str:
    return text
