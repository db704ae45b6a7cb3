"""One line on stderr that is written over and over, and lines above it that stay.

It never waits for the terminal: what a stopped one (Ctrl-S) does not take is left out.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections.abc import Iterator

from tracker.terminal.output import open_terminal_again
from tracker.terminal.screen import can_redraw
from tracker.terminal.text import cut, printable

_STDERR = 2


class StatusLine:
    """The last line of a terminal. Where stderr is none, only notes are written."""

    def __init__(self, descriptor: int = _STDERR) -> None:
        self._descriptor = open_terminal_again(descriptor)
        self._shown = ""
        #: Whether `show` shows anything.
        self.is_live = can_redraw(descriptor)

    @property
    def columns(self) -> int:
        """How wide the line may be."""
        try:
            # a character in the last column would make some terminals go to the next line
            return (os.get_terminal_size(self._descriptor).columns or 80) - 1
        except OSError:
            return 79

    def show(self, text: str) -> None:
        """Make the line read so."""
        if self.is_live:
            self._shown = text
            self._write(f"\r{cut(printable(text), self.columns)}\x1b[K")

    def note(self, text: str) -> None:
        """Write a line that stays."""
        if self.is_live:
            self._write(f"\r\x1b[K{printable(text)}\n")
            if self._shown:
                self.show(self._shown)
        else:
            self._write(f"{printable(text)}\n")

    def close(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        try:
            if room.poll(0):
                os.write(self._descriptor, text.encode("utf-8", "replace"))
        except OSError:
            pass  # nobody reads it


class _Handler(logging.Handler):
    def __init__(self, status: StatusLine, prefix: str) -> None:
        super().__init__()
        self._status = status
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        self._status.note(f"{self._prefix}{record.getMessage()}")


@contextlib.contextmanager
def notes_from(logger: logging.Logger, status: StatusLine, prefix: str) -> Iterator[None]:
    """Write what `logger` logs, from INFO on, as notes, each with `prefix` before it."""
    handler = _Handler(status, prefix)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
