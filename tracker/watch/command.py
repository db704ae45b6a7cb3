"""`tracker watch`: follow devices in the terminal, or in a script.

Exit codes: 0 when it ended as asked (`--count`, `--seconds`, the reader of a pipe left), 1
without a connection or when the gateway refused, 2 for what cannot be asked, 130 after Ctrl-C
(128 + n after signal n).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import ssl
from collections.abc import Iterator
from pathlib import Path

import click
import trio

from tracker.domain.errors import leaves
from tracker.terminal.signals import run_until_signal
from tracker.terminal.text import printable
from tracker.watch.address import check_device_ids, parse_gateway, split_query
from tracker.watch.bookmark import Bookmark
from tracker.watch.dial import default_ssl_context
from tracker.watch.display import Display, make_display
from tracker.watch.errors import GaveUpError, HandshakeError, StreamError
from tracker.watch.message import Report
from tracker.watch.stream import Stream, open_stream
from tracker.watch.timing import Timing

OK = 0
FAILED = 1
WRONG_USAGE = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """What was asked for.

    `count` messages or `seconds_s` at most, snapshots and tracks included. `bookmark_file`: where
    the position is kept. `has_snapshot`, `track_s`: what of the past comes first. `give_up_s`:
    how long to try without a connection; None is one attempt for the first and for ever after
    that. `ca_file`: a PEM file of authorities to trust instead of the system's.
    """

    url: str
    device_ids: tuple[str, ...]
    raw: bool = False
    count: int | None = None
    seconds_s: float | None = None
    bookmark_file: Path | None = None
    has_snapshot: bool = False
    track_s: float = 0.0
    give_up_s: float | None = None
    ca_file: str | None = None


def run(options: WatchOptions) -> int:
    """Run `tracker watch`. Blocks. Returns the exit code."""
    try:
        pasted_ids, _ = split_query(parse_gateway(options.url).query)
        device_ids = check_device_ids((*pasted_ids, *options.device_ids))
        if not device_ids:
            raise ValueError("no device is named; expected --devices A,B")
        file = options.bookmark_file
        with _names("--resume"):
            bookmark = None if file is None else Bookmark(file)
        with _names(f"--ca-file {options.ca_file}"):
            context = default_ssl_context(options.ca_file) if options.ca_file else None
    except ValueError as error:
        return _complain(str(error), WRONG_USAGE)
    display = make_display(device_ids, raw=options.raw)
    watching = functools.partial(_watch, options, device_ids, context, display, bookmark)
    code = OK
    try:
        code = trio.run(run_until_signal, watching)
    except* StreamError as group:
        for failure in leaves(group):
            code = _complain(_explain(failure, options.url), FAILED)
    except* BrokenPipeError:
        pass  # who read our output has enough
    except* OSError as group:
        for failure in leaves(group):
            code = _complain(f"cannot write: {failure}", FAILED)
    display.farewell()
    return code


async def _watch(
    options: WatchOptions,
    device_ids: tuple[str, ...],
    context: ssl.SSLContext | None,
    display: Display,
    bookmark: Bookmark | None,
) -> int:
    patience_s = options.give_up_s
    timing = Timing(
        give_up_first_s=0.0 if patience_s is None else patience_s,
        give_up_s=math.inf if patience_s is None else patience_s,
    )
    limit_s = math.inf if options.seconds_s is None else options.seconds_s
    opening = open_stream(
        options.url,
        device_ids,
        ssl_context=context,
        resume_from="" if bookmark is None else bookmark.position,
        last=options.has_snapshot,
        track_s=options.track_s,
        timing=timing,
    )
    async with opening as stream, trio.open_nursery() as nursery:
        nursery.start_soon(display.run, stream)
        if bookmark is not None:
            nursery.start_soon(bookmark.run, stream)
        try:
            with trio.move_on_after(limit_s):
                await _show(stream, display, options.count, bookmark)
        finally:
            if bookmark is not None:
                bookmark.note(stream)
                bookmark.save()
        nursery.cancel_scope.cancel()
    statistics = stream.statistics()
    if statistics.connects == 0:
        raise GaveUpError(f"no connection within {limit_s:g} s: {statistics.problem}")
    return OK


async def _show(
    stream: Stream, display: Display, count: int | None, bookmark: Bookmark | None
) -> None:
    """Show what comes, until `count` messages have come."""
    shown = 0
    async for item in stream.events():
        with contextlib.nullcontext() if bookmark is None else bookmark.held(stream):
            await display.show(item)
        shown += isinstance(item, Report)
        if shown == count:
            return


@contextlib.contextmanager
def _names(option: str) -> Iterator[None]:
    """Say whose file it was that could not be used. Raises: ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"cannot use {option}: {error}") from None


def _explain(error: BaseException, url: str) -> str:
    cause = error.__cause__ if isinstance(error, GaveUpError) else error
    if isinstance(cause, HandshakeError):
        return f"{error}; `tracker doctor {parse_gateway(url)}` finds out why"
    return str(error)


def _complain(text: str, code: int) -> int:
    click.echo(f"tracker watch: {printable(text)}", err=True)
    return code
