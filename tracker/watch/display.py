"""How what comes is shown: as a live table, as lines for people, as JSON lines for programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

import trio

from tracker.terminal.output import Output
from tracker.terminal.screen import can_redraw, has_colours, open_screen
from tracker.terminal.text import printable
from tracker.watch.fleet import Fleet, number
from tracker.watch.keeper import State
from tracker.watch.message import (
    Event,
    Gap,
    Message,
    ModeChanged,
    Report,
    Resume,
    Snapshot,
    Track,
    Upstream,
)
from tracker.watch.notice import NoticeBoard, describe
from tracker.watch.stream import Stream
from tracker.watch.table import position, render

_STDOUT = 1
_STDERR = 2
#: A table is redrawn when something came, but no more often, and no less often.
_FASTEST_S = 0.2
_SLOWEST_S = 1.0
#: What tells what is missing, and what is from before the stream.
_TOLD = (Gap, Resume, Upstream, ModeChanged, Snapshot, Track)


class Display(Protocol):
    """A way to show a stream."""

    async def show(self, item: Report | Event) -> None:
        """Show it. Raises: OSError when nobody looks any more."""

    async def run(self, stream: Stream) -> None:
        """Whatever goes on beside that, until cancelled. Raises: OSError, as `show`."""

    def farewell(self) -> None:
        """Leave on the terminal what shall be read there when all is over. Blocks."""


class Lines:
    """A line for each thing, as `to_stdout` has it, and what `to_stderr` has to say of it.

    Either gives "" for nothing. What happens to the connection goes to stderr too.
    """

    def __init__(
        self,
        to_stdout: Callable[[Report | Event], str],
        to_stderr: Callable[[Report | Event], str] | None = None,
    ) -> None:
        self._to_stdout = to_stdout
        self._to_stderr = to_stderr
        self._output = Output(_STDOUT)
        self._notes = Output(_STDERR)

    async def show(self, item: Report | Event) -> None:
        """Write it, at once."""
        if line := self._to_stdout(item):
            await self._output.write(f"{line}\n".encode("utf-8", "replace"))
        if self._to_stderr is not None and (note := self._to_stderr(item)):
            await _tell(self._notes, note)

    async def run(self, stream: Stream) -> None:
        """Tell of the connection, and notice when the reader has gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_states, stream, self._notes)
            await self._output.wait_reader_gone()
            raise BrokenPipeError

    def farewell(self) -> None:
        """Nothing: the lines are there."""


class Table:
    """A table that is redrawn in place."""

    def __init__(self, device_ids: tuple[str, ...]) -> None:
        self._fleet = Fleet(device_ids)
        self._notices = NoticeBoard()
        self._output = Output(_STDOUT)
        self._has_colours = has_colours()
        self._changed = trio.Event()
        self._frame: list[str] = []

    async def show(self, item: Report | Event) -> None:
        """Note it."""
        now_s = trio.current_time()
        if isinstance(item, Message):
            self._fleet.note(item, now_s)
        elif isinstance(item, Report):
            said_utc = item.time_utc
            ago_s = 0.0 if said_utc is None else (datetime.now(UTC) - said_utc).total_seconds()
            self._fleet.note_past(item, now_s - max(0.0, ago_s))
        else:
            self._notices.note(item, now_s)
            if isinstance(item, Gap) and item.device_id is not None:
                self._fleet.note_lost(item.device_id, item.dropped)
        self._redraw()
        await trio.lowlevel.checkpoint()

    async def run(self, stream: Stream) -> None:
        """Redraw until cancelled."""
        with open_screen(self._output) as screen:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(screen.run_signals, self._redraw)
                while True:
                    self._changed = trio.Event()
                    self._frame = self._render(stream, screen.size)
                    await screen.draw(self._frame)
                    await trio.sleep(_FASTEST_S)
                    with trio.move_on_after(_SLOWEST_S - _FASTEST_S):
                        await self._changed.wait()

    def farewell(self) -> None:
        """Leave the table as it was last seen."""
        self._output.write_now("".join(f"{line}\n" for line in self._frame).encode())

    def _redraw(self) -> None:
        self._changed.set()

    def _render(self, stream: Stream, size: os.terminal_size) -> list[str]:
        now_s = trio.current_time()
        return render(
            self._fleet.rows(now_s),
            title=str(stream.address),
            statistics=stream.statistics(),
            per_s=self._fleet.per_s(now_s),
            notice=self._notices.text(now_s),
            columns=size.columns,
            lines=size.lines,
            colours=self._has_colours,
        )


def make_display(device_ids: tuple[str, ...], *, raw: bool) -> Display:
    """A table where stdout is a terminal that can redraw; lines elsewhere, and with `raw`."""
    if raw:
        return Lines(format_raw)
    return Table(device_ids) if can_redraw(_STDOUT) else Lines(format_line, _to_note)


def format_raw(item: Report | Event) -> str:
    """A live message as it was sent; what else matters in the gateway's envelope."""
    if isinstance(item, Message):
        return item.text
    if not isinstance(item, _TOLD):
        return ""
    return f'{{"event":"{_name(item)}","data":{item.text}}}'


def _to_note(item: Report | Event) -> str:
    return describe(item) if isinstance(item, Event) else ""


def format_line(report: Report | Event) -> str:
    """`2024-12-11T10:30:00Z  0848086072  speed 45.0  at -33.45670 -70.67890`."""
    if not isinstance(report, Report):
        return ""
    lat, lon = number(report.data.get("LAT")), number(report.data.get("LON"))
    speed = number(report.data.get("SPEED"))
    parts = [printable(report.timestamp), printable(report.device_id)]
    if speed is not None:
        parts.append(f"speed {speed:.1f}")
    if lat is not None and lon is not None:
        parts.append(f"at {position((lat, lon))}")
    if not isinstance(report, Message):
        parts.append(f"({_name(report)})")
    return "  ".join(parts)


def _name(item: Report | Event) -> str:
    """What the gateway calls it."""
    if isinstance(item, Event):
        return item.name
    return "snapshot" if isinstance(item, Snapshot) else "track"


async def _tell_states(stream: Stream, notes: Output) -> None:
    """Tell on stderr when the connection is lost, and when it is back."""
    is_watched = os.isatty(_STDERR)
    has_told = False
    async for state in stream.state.eventual_values():
        statistics = stream.statistics()
        text = None
        if state is State.WAITING:
            text = f"no connection: {statistics.problem}; trying again"
        elif state is State.LIVE and (has_told or is_watched):
            text = f"connected to {stream.address}"
        if text is not None:
            has_told = True
            await _tell(notes, text)


async def _tell(notes: Output, text: str) -> None:
    try:
        await notes.write(f"tracker watch: {printable(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass  # nobody reads it
