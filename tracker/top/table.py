"""The connections as lines of text. Pure: the same arguments give the same lines."""

from __future__ import annotations

import dataclasses

from tracker.terminal.columns import Column, Elastic, lay_out
from tracker.terminal.text import cut, printable
from tracker.top.observation import Connection, Observation, Totals
from tracker.top.rates import Rates
from tracker.watch.table import age, rate

#: Who is that far behind is shown as slow.
SLOW_S = 1.0

_GAP = "  "
_NONE = "-"
_UNKNOWN = "?"
_ELASTIC = Elastic(min_cells=10, wanted_cells=16, max_cells=200)
_BOLD, _RED, _YELLOW = "1", "31", "33"


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    connection: Connection
    per_s: float | None


_USER_AGENT: Column[_Row] = Column(
    "USER AGENT", lambda row: printable(row.connection.user_agent) or _NONE, is_left=True
)
_COLUMNS: tuple[Column[_Row], ...] = (
    Column("LAG", lambda row: _lag(row.connection.lag_s), min_cells=6),
    Column("WAITING", lambda row: _count(row.connection.waiting)),
    Column("DROPPED", lambda row: _count(row.connection.dropped)),
    Column("RATE", lambda row: _UNKNOWN if row.per_s is None else rate(row.per_s), 6, min_cells=8),
    Column("TRANSPORT", lambda row: printable(row.connection.transport), 3, is_left=True),
    Column("MODE", lambda row: printable(row.connection.mode), 1, is_left=True),
    Column("DEVICES", lambda row: str(row.connection.devices), 2),
    Column("AGE", lambda row: age(row.connection.age_s), 4, min_cells=6),
    Column("ADDRESS", lambda row: printable(row.connection.address) or _NONE, is_left=True),
    _USER_AGENT,
)


def render(
    observation: Observation,
    rates: Rates,
    *,
    problem: str = "",
    width: int,
    lines: int,
    colours: bool,
) -> list[str]:
    """The frame: at most `lines` lines of at most `width` columns each.

    `problem`: why there is no newer observation, if there should be one.
    """
    paint = _paint if colours else _plain
    totals = observation.totals
    frame = [cut(line, width) for line in _summary(observation.total, totals, rates)]
    if not totals.mqtt_connected:
        frame.append(paint(cut("the gateway has no broker: no message can come", width), _RED))
    if problem:
        frame.append(paint(cut(f"NO ANSWER: {printable(problem)}", width), _RED))
    frame.append("")
    rows = [
        _Row(connection, per_s)
        for connection, per_s in zip(observation.connections, rates.delivered, strict=True)
    ]
    header, table, _ = lay_out(
        rows,
        _COLUMNS,
        elastic=(_USER_AGENT, _ELASTIC),
        width=width,
        lines=lines - len(frame),
    )
    frame.append(paint(header, _BOLD))
    for row, line in zip(rows, table, strict=False):
        frame.append(paint(line, _colour(row.connection)))
    hidden = observation.total - len(table)
    if hidden:
        frame.append(cut(f"… and {hidden} more, none slower", width))
    return frame[:lines]


def _summary(total: int, totals: Totals, rates: Rates) -> list[str]:
    by_transport = ", ".join(
        f"{count} {printable(name)}" for name, count in totals.connections.items()
    )
    resumes = ", ".join(f"{count} {printable(name)}" for name, count in totals.resumes.items())
    first = (
        _plural(total, "connection") + (f" ({by_transport})" if by_transport else ""),
        _plural(totals.active_subscribers, "subscription"),
        _plural(totals.devices_being_monitored, "device"),
        f"in {_total_rate(rates.published)}",
        f"out {_total_rate(rates.delivered_in_all)}",
    )
    second = (
        f"{totals.messages_waiting} waiting",
        f"{totals.messages_dropped} dropped",
        _plural(totals.gaps, "gap"),
        f"resumes: {resumes or 0}",
    )
    return [_GAP.join(first), _GAP.join(second)]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _total_rate(per_s: float | None) -> str:
    if per_s is None:
        return _UNKNOWN
    return rate(per_s) if per_s else "0/s"


def _lag(lag_s: float) -> str:
    if lag_s == 0:
        return _NONE
    return f"{lag_s * 1000:.0f} ms" if lag_s < 0.9995 else age(lag_s)


def _count(count: int) -> str:
    return str(count) if count else _NONE


def _colour(connection: Connection) -> str:
    if connection.lag_s >= SLOW_S:
        return _RED
    return _YELLOW if connection.dropped else ""


def _paint(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if text and colour else text


def _plain(text: str, colour: str) -> str:
    return text
