"""A file that remembers where a stream stands, so that a later one goes on from there.

It holds the position and a line feed, and is replaced as a whole: whoever reads it finds the old
or the new one. It is written once a second at most, and at the end, so that who is killed is told
again what came in the last second, and misses nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tracker.watch.stream import Stream

#: Whatever a gateway may call a position, but not somebody's notes.
_POSITION = re.compile(rb"\s*|([!-~]{1,200})\n?")
_LIMIT_BYTES = 256
_INTERVAL_S = 1.0


class Bookmark:
    """Keeps the position of a stream in `file`; `position` is "" when there is none yet.

    Raises: OSError when the file cannot be read, or there is no folder for it; ValueError when
    something else is in it, which is not to be overwritten.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._saved = self.position = _read(file)
        self._is_held = False
        self._lock = threading.Lock()

    @contextmanager
    def held(self, stream: Stream) -> Iterator[None]:
        """What was taken from `stream` last counts when the block has ended, without an error."""
        self._is_held = True
        yield
        self._is_held = False
        self.note(stream)

    def note(self, stream: Stream) -> None:
        """Note where `stream` stands, unless it is held."""
        if not self._is_held:
            self.position = stream.position

    def save(self) -> None:
        """Write the position, if it is another. Blocks. Raises: OSError."""
        with self._lock:
            position = self.position
            if position == self._saved:
                return
            beside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            try:
                beside.write_text(f"{position}\n")
                beside.replace(self._file)
            except BaseException:
                with contextlib.suppress(OSError):
                    beside.unlink()
                raise
            self._saved = position

    async def run(self, stream: Stream) -> None:
        """Save where `stream` stands, now and then, until cancelled. Raises: OSError.

        Cancellation: the file has the old position or the new one.
        """
        while True:
            await trio.sleep(_INTERVAL_S)
            self.note(stream)
            await trio.to_thread.run_sync(self.save)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LIMIT_BYTES)
    except FileNotFoundError:
        os.stat(file.parent)
        return ""
    match = _POSITION.fullmatch(data)
    if match is None:
        raise ValueError(
            f"{file} does not hold a position; expected a file that an earlier --resume left, "
            "or a new one"
        )
    return (match[1] or b"").decode()
