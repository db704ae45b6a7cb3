"""A terminal that is redrawn in place, and given back as it was.

The frame stands on the alternate screen, as that of `top` does: nothing of it wraps into the
scrollback when the window becomes narrower. Leaving is synchronous: no cancellation comes
between a command and the terminal that it has to restore.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from tracker.terminal.output import Output

# xterm's control sequences: alternate screen, no cursor, no line wrap; and back.
_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H"
_CLEAR_REST_OF_LINE = "\x1b[K"
_CLEAR_BELOW = "\x1b[J"

_FALLBACK_SIZE = os.terminal_size((80, 24))


def can_redraw(descriptor: int) -> bool:
    """Whether this is a terminal that knows how to move its cursor."""
    return os.isatty(descriptor) and os.environ.get("TERM", "dumb") not in ("dumb", "")


def has_colours() -> bool:
    """Whether the user wants colours. Source: no-color.org."""
    return not os.environ.get("NO_COLOR")


class Screen:
    """A terminal taken over by `open_screen`."""

    def __init__(self, output: Output) -> None:
        self._output = output

    @property
    def size(self) -> os.terminal_size:
        """Columns and rows now."""
        try:
            size = os.get_terminal_size(self._output.descriptor)
        except OSError:
            return _FALLBACK_SIZE
        # a terminal that was never told its size has none
        return os.terminal_size(
            (size.columns or _FALLBACK_SIZE.columns, size.lines or _FALLBACK_SIZE.lines)
        )

    async def draw(self, lines: Sequence[str]) -> None:
        """Show these lines, which fit, and nothing else.

        Raises: OSError when the terminal is gone. Cancellation: a part may have been drawn.
        """
        body = f"{_CLEAR_REST_OF_LINE}\r\n".join(lines)
        await self._output.write(
            f"{_HOME}{body}{_CLEAR_REST_OF_LINE}{_CLEAR_BELOW}".encode("utf-8", "replace")
        )

    async def run_signals(self, on_change: Callable[[], None]) -> None:
        """Give the terminal back while we are stopped (Ctrl-Z); until cancelled.

        `on_change` is called when all has to be drawn anew: the size is another, or we go on.
        """
        with trio.open_signal_receiver(signal.SIGTSTP, signal.SIGWINCH) as signals:
            async for number in signals:
                if number == signal.SIGTSTP:
                    self._output.write_now(_LEAVE)
                    os.kill(os.getpid(), signal.SIGSTOP)
                    self._output.write_now(_ENTER)
                on_change()


@contextmanager
def open_screen(output: Output) -> Iterator[Screen]:
    """Take the terminal over for as long as the block lasts."""
    output.write_now(_ENTER)
    try:
        yield Screen(output)
    finally:
        output.write_now(_LEAVE)
