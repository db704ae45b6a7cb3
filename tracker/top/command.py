"""`tracker top`: the connections of a gateway, the slowest first, in the terminal or a script.

Exit codes: 0 after `--once`, or when the reader of a pipe left, 1 when the gateway does not tell,
2 for what cannot be asked, 130 after Ctrl-C (128 + n after signal n).
"""

from __future__ import annotations

import dataclasses
import functools
import ssl
from typing import Protocol

import click
import msgspec
import trio

from tracker.domain.errors import leaves
from tracker.terminal.output import Output
from tracker.terminal.screen import Screen, can_redraw, has_colours, open_screen
from tracker.terminal.signals import run_until_signal
from tracker.terminal.text import printable
from tracker.top.observation import Observation, observe
from tracker.top.rates import Rates, rates
from tracker.top.table import render
from tracker.watch.address import GatewayAddress, parse_gateway
from tracker.watch.dial import default_ssl_context
from tracker.watch.errors import StreamError

OK = 0
FAILED = 1
WRONG_USAGE = 2

_STDOUT = 1
_PERIOD_S = 1.0
#: Where there is no terminal: of a user agent so much is enough for anybody.
_LINES_WIDTH = 240
_LINES_LIMIT = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopOptions:
    """What was asked for. `ca_file`: as for `tracker watch`."""

    url: str
    is_once: bool = False
    as_json: bool = False
    ca_file: str | None = None


class Display(Protocol):
    """A way to show what was observed."""

    async def show(self, observation: Observation, found: Rates, problem: str) -> None:
        """Show it. Raises: OSError when nobody looks any more."""

    async def run(self) -> None:
        """Whatever goes on beside that, until cancelled. Raises: OSError, as `show`."""


def run(options: TopOptions) -> int:
    """Run `tracker top`. Blocks. Returns the exit code."""
    try:
        address = parse_gateway(options.url)
        context = default_ssl_context(options.ca_file) if options.ca_file else None
    except ValueError as error:
        return _complain(str(error), WRONG_USAGE)
    except OSError as error:
        return _complain(f"cannot use --ca-file {options.ca_file}: {error}", WRONG_USAGE)
    code = OK
    try:
        code = trio.run(run_until_signal, functools.partial(_top, options, address, context))
    except* StreamError as group:
        for failure in leaves(group):
            code = _complain(f"{failure}", FAILED)
    except* BrokenPipeError:
        pass  # who read our output has enough
    except* OSError as group:
        for failure in leaves(group):
            code = _complain(f"cannot write: {failure}", FAILED)
    return code


async def _top(options: TopOptions, address: GatewayAddress, context: ssl.SSLContext | None) -> int:
    # Before the screen is taken over: what is refused is told where it can be read.
    first = await observe(address, context)
    output = Output(_STDOUT)
    if options.as_json:
        await _follow(address, context, first, JsonLines(output), options)
    elif options.is_once or not can_redraw(_STDOUT):
        await _follow(address, context, first, Blocks(output), options)
    else:
        with open_screen(output) as screen:
            await _follow(address, context, first, Table(screen), options)
    return OK


async def _follow(
    address: GatewayAddress,
    context: ssl.SSLContext | None,
    first: Observation,
    display: Display,
    options: TopOptions,
) -> None:
    """Show an observation a second; one alone, but with its rates, where it is `once`."""
    before, found = first, rates(None, first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(display.run)
        if not options.is_once:
            await display.show(first, found, "")
        while True:
            due_s = trio.current_time() + _PERIOD_S
            await trio.sleep_until(due_s)
            problem = ""
            try:
                after = await observe(address, context)
            except StreamError as error:
                if error.is_final or options.is_once:
                    raise
                problem = str(error)
            else:
                before, found = after, rates(before, after)
            await display.show(before, found, problem)
            if options.is_once:
                break
        nursery.cancel_scope.cancel()


class Table:
    """A table that is redrawn in place."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._has_colours = has_colours()
        self._shown: tuple[Observation, Rates, str] | None = None
        self._changed = trio.Event()

    async def show(self, observation: Observation, found: Rates, problem: str) -> None:
        """Have it drawn."""
        self._shown = observation, found, problem
        self._changed.set()
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Draw what is new, and all of it when the window has another size, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._screen.run_signals, lambda: self._changed.set())
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                if self._shown is not None:
                    await self._draw(*self._shown)

    async def _draw(self, observation: Observation, found: Rates, problem: str) -> None:
        size = self._screen.size
        frame = render(
            observation,
            found,
            problem=problem,
            width=size.columns,
            lines=size.lines,
            colours=self._has_colours,
        )
        await self._screen.draw(frame)


class Blocks:
    """A table behind the other, with an empty line between them."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._has_shown = False

    async def show(self, observation: Observation, found: Rates, problem: str) -> None:
        """Write it, all of it."""
        frame = render(
            observation,
            found,
            problem=problem,
            width=_LINES_WIDTH,
            lines=_LINES_LIMIT,
            colours=False,
        )
        lines = [""] * self._has_shown + [line.rstrip() for line in frame]
        self._has_shown = True
        await self._output.write("".join(f"{line}\n" for line in lines).encode())

    async def run(self) -> None:
        """Notice when the reader has gone."""
        await self._output.wait_reader_gone()
        raise BrokenPipeError


class JsonLines:
    """A line of JSON for each observation: what the gateway answered, and the rates.

    `{"connections":[{…,"delivered_per_s":…},…],"total":…,"stats":{…}}`; when there is no answer,
    `{"problem":"…"}`.
    """

    def __init__(self, output: Output) -> None:
        self._output = output

    async def show(self, observation: Observation, found: Rates, problem: str) -> None:
        """Write it."""
        value: dict[str, object] = {"problem": problem}
        if not problem:
            listed = msgspec.json.decode(observation.listed)
            for connection, per_s in zip(listed["connections"], found.delivered, strict=True):
                connection["delivered_per_s"] = per_s
            value = {**listed, "stats": msgspec.Raw(observation.stats)}
        await self._output.write(msgspec.json.encode(value) + b"\n")

    async def run(self) -> None:
        """Notice when the reader has gone."""
        await self._output.wait_reader_gone()
        raise BrokenPipeError


def _complain(text: str, code: int) -> int:
    click.echo(f"tracker top: {printable(text)}", err=True)
    return code
