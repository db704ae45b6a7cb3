"""The live table as lines of text. Pure: the same arguments give the same lines.

On a narrow terminal columns go, the least needed first, before any is cut: rate, position,
speed. Device and age stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tracker.terminal.text import cells, cut, left, printable, right
from tracker.watch.fleet import Row
from tracker.watch.stream import State, StreamStatistics

#: PROTOCOL A2: on a stream that lives a ping comes every 60 s; a device may be silent for long.
STALE_S = 60.0

_GAP = "  "
_DEVICE_MIN_CELLS = 8
_DEVICE_MAX_CELLS = 32
#: So much of an id is worth more than another column: an IMEI has 15 digits, a UUID is too long.
_DEVICE_WANTED_CELLS = 20
_NONE = "-"

_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"


@dataclasses.dataclass(frozen=True, slots=True)
class _Column:
    title: str
    text: Callable[[Row], str]
    #: The lowest goes first when there is no room; None stays.
    rank: int | None
    min_cells: int


_COLUMNS = (
    _Column("AGE", lambda row: age(row.age_s), None, 6),
    _Column("SPEED", lambda row: _speed(row.speed), 3, 6),
    _Column("POSITION", lambda row: position(row.position), 2, 20),
    _Column("RATE", lambda row: rate(row.per_s), 1, 8),
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
    columns: int,
    lines: int,
    colours: bool,
) -> list[str]:
    """The frame: at most `lines` lines of at most `columns` columns each."""
    paint = _paint if colours else _plain
    status, colour = _status(statistics)
    counts = _GAP.join(
        (
            rate(per_s) if per_s else "0/s",
            _plural(statistics.reconnects, "reconnect"),
            _plural(len(rows), "device"),
            printable(title),
        )
    )
    status = cut(status, columns)
    frame = [paint(status, colour) + cut(f"{_GAP}{counts}", columns - cells(status))]
    if statistics.problem:
        frame.append(paint(cut(printable(statistics.problem), columns), _YELLOW))
    frame.append("")
    frame += _table(rows, columns, lines - len(frame), paint)
    return frame[:lines]


def _table(
    rows: Sequence[Row], columns: int, lines: int, paint: Callable[[str, str], str]
) -> list[str]:
    ids = [printable(row.device_id) for row in rows]
    shown = list(_COLUMNS)
    texts = {column: [column.text(row) for row in rows] for column in shown}
    widths = {
        column: max([column.min_cells, len(column.title), *map(len, texts[column])])
        for column in shown
    }
    longest_id = max([_DEVICE_MIN_CELLS, *map(cells, ids)])

    def room() -> int:
        return columns - sum(widths[column] + len(_GAP) for column in shown)

    while room() < min(longest_id, _DEVICE_WANTED_CELLS):
        ranked = [column for column in shown if column.rank is not None]
        if not ranked:
            break
        shown.remove(min(ranked, key=lambda column: column.rank or 0))
    id_cells = max(1, min(longest_id, _DEVICE_MAX_CELLS, room()))

    header = [left("DEVICE", id_cells), *(right(one.title, widths[one]) for one in shown)]
    table = [paint(cut(_GAP.join(header), columns), _BOLD)]
    is_all = len(rows) <= lines - 1
    count = len(rows) if is_all else max(0, lines - 2)
    for index in range(count):
        line = cut(
            _GAP.join(
                [
                    left(ids[index], id_cells),
                    *(right(texts[one][index], widths[one]) for one in shown),
                ]
            ),
            columns,
        )
        age_s = rows[index].age_s
        table.append(paint(line, _DIM) if age_s is None or age_s > STALE_S else line)
    if not is_all:
        table.append(paint(cut(f"… and {len(rows) - count} more", columns), _DIM))
    return table


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
