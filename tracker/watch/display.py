"""How what comes is shown: as a live table, as lines for people, as JSON lines for programs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

import trio

from tracker.terminal.output import Output
from tracker.terminal.screen import can_redraw, has_colours, open_screen
from tracker.terminal.text import printable
from tracker.watch.fleet import Fleet, number
from tracker.watch.message import Event, Message
from tracker.watch.stream import State, Stream
from tracker.watch.table import position, render

_STDOUT = 1
_STDERR = 2
#: A table is redrawn when something came, but no more often, and no less often.
_FASTEST_S = 0.2
_SLOWEST_S = 1.0


class Display(Protocol):
    """A way to show a stream."""

    async def show(self, item: Message | Event) -> None:
        """Show it. Raises: OSError when nobody looks any more."""

    async def run(self, stream: Stream) -> None:
        """Whatever goes on beside that, until cancelled. Raises: OSError, as `show`."""

    def farewell(self) -> None:
        """Leave on the terminal what shall be read there when all is over. Blocks."""


class Lines:
    """A line for each message; what happens to the connection goes to stderr."""

    def __init__(self, format_line: Callable[[Message], str]) -> None:
        self._format_line = format_line
        self._output = Output(_STDOUT)

    async def show(self, item: Message | Event) -> None:
        """Write a message, at once."""
        if isinstance(item, Message):
            await self._output.write(f"{self._format_line(item)}\n".encode("utf-8", "replace"))

    async def run(self, stream: Stream) -> None:
        """Tell of the connection, and notice when the reader has gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell_states, stream)
            await self._output.wait_reader_gone()
            raise BrokenPipeError

    def farewell(self) -> None:
        """Nothing: the lines are there."""


class Table:
    """A table that is redrawn in place."""

    def __init__(self, device_ids: tuple[str, ...]) -> None:
        self._fleet = Fleet(device_ids)
        self._output = Output(_STDOUT)
        self._has_colours = has_colours()
        self._changed = trio.Event()
        self._frame: list[str] = []

    async def show(self, item: Message | Event) -> None:
        """Note a message."""
        if isinstance(item, Message):
            self._fleet.note(item, trio.current_time())
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
            columns=size.columns,
            lines=size.lines,
            colours=self._has_colours,
        )


def make_display(device_ids: tuple[str, ...], *, raw: bool) -> Display:
    """A table where stdout is a terminal that can redraw; lines elsewhere, and with `raw`."""
    if raw:
        return Lines(lambda message: message.text)
    return Table(device_ids) if can_redraw(_STDOUT) else Lines(format_line)


def format_line(message: Message) -> str:
    """`2024-12-11T10:30:00Z  0848086072  speed 45.0  at -33.45670 -70.67890`."""
    lat, lon = number(message.data.get("LAT")), number(message.data.get("LON"))
    speed = number(message.data.get("SPEED"))
    parts = [printable(message.timestamp), printable(message.device_id)]
    if speed is not None:
        parts.append(f"speed {speed:.1f}")
    if lat is not None and lon is not None:
        parts.append(f"at {position((lat, lon))}")
    return "  ".join(parts)


async def _tell_states(stream: Stream) -> None:
    """Tell on stderr when the connection is lost, and when it is back."""
    output = Output(_STDERR)
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
            try:
                await output.write(f"tracker watch: {printable(text)}\n".encode())
            except OSError:
                return  # nobody reads it
