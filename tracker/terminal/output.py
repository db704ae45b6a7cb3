"""Writing to a terminal, a pipe or a file from Trio, without ever waiting for it in the kernel.

Theory of operation. O_NONBLOCK belongs to an open file, and so to whoever shares it, the shell
for one. A terminal is therefore opened once more, for us alone. A pipe stays as it is: one that
is ready takes PIPE_BUF bytes without blocking (POSIX, `write`), so each write is that small and
follows `wait_writable`. (That does not hold for a terminal.) A file is always ready, and epoll
refuses it.
"""

from __future__ import annotations

import os
import select
import stat

import trio

_WRITE_LIMIT_BYTES = select.PIPE_BUF
#: A terminal with room for one byte is "writable" and does not take a line feed, which is two.
_FULL_S = 0.01


class Output:
    """A descriptor to write to."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        mode = os.fstat(descriptor).st_mode
        self._is_pollable = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
        self._is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self.is_terminal = os.isatty(descriptor)
        self._own = open_terminal_again(descriptor)

    async def write(self, data: bytes) -> None:
        """Write all of it.

        Raises: OSError; BrokenPipeError when the reader is gone.
        Cancellation: a part may have been written.
        """
        rest = memoryview(data)
        while rest:
            if self._is_pollable:
                try:
                    await trio.lowlevel.wait_writable(self._own)
                except PermissionError:  # a device that knows no readiness, as /dev/null
                    self._is_pollable = False
            else:
                await trio.lowlevel.checkpoint()
            try:
                rest = rest[os.write(self._own, rest[:_WRITE_LIMIT_BYTES]) :]
            except BlockingIOError:
                await trio.sleep(_FULL_S)

    def write_now(self, data: bytes) -> None:
        """Write all of it. Blocks. Whoever does not read it any more does not get it."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.descriptor, rest) :]
        except OSError:
            pass

    async def wait_reader_gone(self) -> None:
        """Wait until nobody reads any more; for ever where that cannot be known.

        Cancellation: atomic.
        """
        if not self._is_pipe:
            await trio.sleep_forever()
        # the write end of a pipe becomes "readable" by its error alone
        await trio.lowlevel.wait_readable(self.descriptor)


def open_terminal_again(descriptor: int) -> int:
    """A descriptor of our own, which never blocks, of the same terminal.

    The same one where it is no terminal, or one that cannot be opened (another user's).
    """
    try:
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(os.ttyname(descriptor), flags)
    except OSError:
        return descriptor
