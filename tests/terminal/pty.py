"""A command in a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

DEADLINE_S = 30.0

_SEQUENCE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Terminal:
    """What a command wrote to its terminal so far, and its process."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self._wrote = b""

    @property
    def wrote(self) -> str:
        """All of it."""
        return self._wrote.decode(errors="replace")

    @property
    def frames(self) -> list[str]:
        """The frames that it drew, without colours."""
        return [_SEQUENCE.sub("", part) for part in self.wrote.split("\x1b[H")[1:]]

    @property
    def afterwards(self) -> str:
        """What it left on the terminal when it had given it back."""
        return _SEQUENCE.sub("", self.wrote.rpartition("\x1b[?1049l")[2])

    async def wait_for(self, is_true: Callable[[], bool]) -> None:
        """Read until the condition holds."""
        with trio.fail_after(DEADLINE_S):
            while not is_true():
                await self._read()

    async def wait_end(self) -> int:
        """Read to its end; return the exit code."""
        with trio.fail_after(DEADLINE_S):
            while await self._read():
                pass
            return await trio.to_thread.run_sync(self.process.wait)

    def resize(self, columns: int, lines: int) -> None:
        """Make the window another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._master, keys)

    async def _read(self) -> bool:
        await trio.lowlevel.wait_readable(self._master)
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: its last process has gone
            return False
        self._wrote += data
        return bool(data)


@asynccontextmanager
async def open_terminal(
    *arguments: str, columns: int = 80, lines: int = 24, **environment: str
) -> AsyncIterator[Terminal]:
    """Run `tracker …` in a terminal; it is killed with the block at the latest."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(
            [sys.executable, "-m", "tracker", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            # its controlling terminal: Ctrl-C is the terminal's doing
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=os.environ | {"TERM": "xterm-256color"} | environment,
        )
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
