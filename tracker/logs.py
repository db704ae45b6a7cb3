"""Logging to stderr through a bounded queue and a thread: a blocked terminal stops nobody.

Theory of operation: a record is formatted where it is logged, which costs no waiting, and goes
into a queue as finished bytes; one thread writes them. Where the queue is full the new record is
dropped and counted, and the count is logged once there is room again. At every moment
`offered == written + dropped + waiting`.

Why not `QueueListener`: its `stop()` joins without a deadline, so a blocked stderr would hold
the process at exit, and it counts nothing. Why bytes on a descriptor and not `sys.stderr`: the
operators grep for lines that are not ASCII, under any locale.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Final, TextIO

import msgspec

from tracker.log_lines import JsonFormatter, TextFormatter
from tracker.settings import LogSettings

STDERR: Final = 2

QUEUE_LIMIT_BYTES: Final = 16 * 1024 * 1024

FLUSH_DEADLINE_S: Final = 1.0

# Longer writes may block though poll() says that there is room; up to it, a line is never torn
# by another process that writes to the same pipe. 4096 on Linux.
_WRITE_LIMIT_BYTES: Final = select.PIPE_BUF

_BLOCKED_POLL_S: Final = 0.1  # how late the thread learns that it shall end while it is blocked
_REPORT_INTERVAL_S: Final = 1.0


class LogStatistics(msgspec.Struct, frozen=True):
    """Records since the start. `waiting` are in the queue, or being written."""

    offered: int
    written: int
    dropped: int
    waiting: int


class _Line(msgspec.Struct, frozen=True):
    """What the thread writes: a record, or the report that some were dropped."""

    text: bytes
    reports: int = 0


class StderrHandler(logging.Handler):
    """Hands finished lines to a thread that writes them to a descriptor. Never waits for it.

    Safe in signal handlers and finalizers: the handler's lock can be taken again by the thread
    that has it, and so can the queue's.
    """

    def __init__(
        self, formatter: logging.Formatter, *, queue_limit_records: int, descriptor: int = STDERR
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._limit_records = queue_limit_records
        self._queue: queue.SimpleQueue[_Line | None] = queue.SimpleQueue()
        self._offered = self._written = self._dropped = self._waiting = self._waiting_bytes = 0
        self._unreported = 0
        self._reported_at_s = 0.0
        self._ends_at_s: float | None = None
        try:
            # Our own number: should somebody close 2, a socket may get it, and the log with it.
            self._descriptor: int | None = os.dup(descriptor)
        except OSError:  # closed by who started us
            self._descriptor = None
        self._thread = threading.Thread(target=self._write_all, name="logs", daemon=True)
        self._thread.start()

    def statistics(self) -> LogStatistics:
        """Exact at the moment of the call."""
        with self._locked():
            return LogStatistics(self._offered, self._written, self._dropped, self._waiting)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue `record`, or drop and count it. Never waits for stderr, never raises."""
        self._offered += 1
        if not self._has_room():
            self._drop(1)
            return
        if self._unreported and time.monotonic() - self._reported_at_s >= _REPORT_INTERVAL_S:
            self._queue.put(self._report())
        line = self._line(record)
        self._waiting += 1
        self._waiting_bytes += len(line.text)
        self._queue.put(line)

    def close(self) -> None:
        """Write what waits, for `FLUSH_DEADLINE_S` at most; what is left then is dropped."""
        with self._locked():
            if self._ends_at_s is not None:
                return
            self._ends_at_s = time.monotonic() + FLUSH_DEADLINE_S
            self._queue.put(None)
        # A margin for the thread to count; a write that blocks all the same is left behind.
        self._thread.join(FLUSH_DEADLINE_S + 2 * _BLOCKED_POLL_S)
        super().close()

    def _has_room(self) -> bool:
        return (
            self._ends_at_s is None
            and self._waiting < self._limit_records
            and self._waiting_bytes < QUEUE_LIMIT_BYTES
        )

    def _drop(self, records: int) -> None:
        self._dropped += records
        self._unreported += records

    def _line(self, record: logging.LogRecord, reports: int = 0) -> _Line:
        return _Line(f"{self.format(record)}\n".encode(), reports)

    def _report(self) -> _Line:
        """The line that tells how many records were dropped since the last one."""
        count, self._unreported = self._unreported, 0
        self._reported_at_s = time.monotonic()
        fields = {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "%d log records were dropped: they came faster than stderr took them",
            "args": (count,),
            "dropped": count,
        }
        return self._line(logging.makeLogRecord(fields), reports=count)

    def _locked(self) -> contextlib.AbstractContextManager[object]:
        assert self.lock is not None  # a Handler has one
        return self.lock

    def _write_all(self) -> None:
        """The thread: write until the queue's end."""
        while (line := self._queue.get()) is not None:
            self._count(line, written=self._write(line.text))
            if self._queue.empty():
                self._write_report()
        self._write_report()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _write_report(self) -> None:
        with self._locked():
            line = self._report() if self._unreported else None
        if line is not None:
            self._count(line, written=self._write(line.text))

    def _count(self, line: _Line, *, written: bool) -> None:
        with self._locked():
            if line.reports:
                self._unreported += 0 if written else line.reports
                return
            self._waiting -= 1
            self._waiting_bytes -= len(line.text)
            if written:
                self._written += 1
            else:
                self._drop(1)

    def _write(self, text: bytes) -> bool:
        """Whether all of `text` was taken. Waits for room, but not beyond the deadline."""
        if self._descriptor is None:
            return False
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        rest = memoryview(text)
        while rest:
            if self._ends_at_s is not None and time.monotonic() >= self._ends_at_s:
                return False
            try:
                if room.poll(_BLOCKED_POLL_S * 1000):
                    rest = rest[os.write(self._descriptor, rest[:_WRITE_LIMIT_BYTES]) :]
            except BlockingIOError:  # a writer beside us was faster
                time.sleep(_BLOCKED_POLL_S)
            except OSError:  # the reader is gone, the disk is full: the next line may fare better
                return False
        return True


@contextlib.contextmanager
def configure_logging(
    settings: LogSettings, *, descriptor: int = STDERR
) -> Iterator[StderrHandler]:
    """Within the block, what is logged, warnings included, goes to stderr as `settings` say.

    `debug` is for our own loggers: those of libraries stay at `info` (hpack would log every
    header, tokens too). Handlers that are there already stay; levels and the rest are as they
    were after the block, which leaves within about a second, whoever does not read stderr.

    The handler's `statistics()` tell how many records were dropped.
    """
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root, own = logging.getLogger(), logging.getLogger("tracker")
    found = root.level, own.level, warnings.showwarning
    handler = StderrHandler(
        TextFormatter() if settings.format == "text" else JsonFormatter(),
        queue_limit_records=settings.queue_records,
        descriptor=descriptor,
    )
    root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))
    own.setLevel(level)
    warnings.showwarning = _log_warning
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        root.setLevel(found[0])
        own.setLevel(found[1])
        warnings.showwarning = found[2]
        handler.close()


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = f"{filename}:{lineno}: {category.__name__}: {message}"
    logging.getLogger("py.warnings").warning("%s", text)
