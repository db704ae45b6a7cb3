"""The queue and its thread, on real pipes: who does not read stderr stops nobody."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator

import pytest

from tracker.logs import LogStatistics, StderrHandler, configure_logging
from tracker.settings import LogSettings

STARTED = "✅ MQTT → WebSocket Broker bridge iniciado"
DEADLINE_S = 20.0

logger = logging.getLogger("tracker.test")


class Pipe:
    """A stderr: `read_to_end()` once everybody who writes has closed it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def close_writing(self) -> None:
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    def close_reading(self) -> None:
        if self.reading >= 0:
            os.close(self.reading)
            self.reading = -1

    def read_to_end(self) -> str:
        self.close_writing()
        parts = []
        while part := os.read(self.reading, 65536):
            parts.append(part)
        return b"".join(parts).decode()

    def fill(self) -> int:
        """Fill the pipe with `#`; how many bytes went in."""
        os.set_blocking(self.writing, False)
        size = 0
        try:
            while True:
                size += os.write(self.writing, b"#" * 4096)
        except BlockingIOError:
            return size
        finally:
            os.set_blocking(self.writing, True)

    def drain(self, size: int) -> None:
        while size:
            size -= len(os.read(self.reading, size))


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close_writing()
    pipe.close_reading()


def wait_until(handler: StderrHandler, *, written: int) -> None:
    ends_at_s = time.monotonic() + DEADLINE_S
    while handler.statistics().written < written:
        assert time.monotonic() < ends_at_s, handler.statistics()
        time.sleep(0.005)


def messages(text: str) -> list[str]:
    return [json.loads(line)["message"] for line in text.splitlines()]


def test_text(pipe: Pipe) -> None:
    with configure_logging(LogSettings(), descriptor=pipe.writing) as handler:
        logger.info(STARTED)
        logger.debug("not at this level")
    line = pipe.read_to_end()
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z INFO    tracker\.test: {STARTED}\n", line
    )
    assert handler.statistics() == LogStatistics(offered=1, written=1, dropped=0, waiting=0)


def test_json(pipe: Pipe) -> None:
    with configure_logging(LogSettings(format="json"), descriptor=pipe.writing):
        logger.warning(STARTED, extra={"topic": "trackers/ñ"})
    line = pipe.read_to_end()
    assert STARTED in line
    decoded = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", decoded.pop("time"))
    assert decoded == {
        "level": "warning",
        "logger": "tracker.test",
        "message": STARTED,
        "topic": "trackers/ñ",
    }


def test_warnings_are_logged(pipe: Pipe) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with configure_logging(LogSettings(format="json"), descriptor=pipe.writing):
            warnings.warn_explicit("old news", DeprecationWarning, "/x.py", 7)
    assert messages(pipe.read_to_end()) == ["/x.py:7: DeprecationWarning: old news"]


def test_debug_is_for_our_own_loggers(pipe: Pipe) -> None:
    with configure_logging(LogSettings(level="debug", format="json"), descriptor=pipe.writing):
        logger.debug("ours")
        logging.getLogger("hpack").debug("theirs")
        logging.getLogger("hypercorn.error").info("theirs too")
    assert messages(pipe.read_to_end()) == ["ours", "theirs too"]


def test_everything_is_found_again_as_it_was(pipe: Pipe) -> None:
    def state() -> tuple[object, ...]:
        root = logging.getLogger()
        own = logging.getLogger("tracker")
        return (
            *root.handlers,
            root.level,
            own.level,
            warnings.showwarning,
            [thread for thread in threading.enumerate() if thread.name == "logs"],
        )

    def fail() -> None:
        with configure_logging(LogSettings(level="error"), descriptor=pipe.writing):
            logger.error("last words")
            raise RuntimeError("from within")

    before = state()
    with pytest.raises(RuntimeError, match="from within"):
        fail()
    assert state() == before
    assert pipe.read_to_end().endswith("tracker.test: last words\n")


def test_a_full_pipe_stops_nobody_and_every_loss_is_counted(pipe: Pipe) -> None:
    filled = pipe.fill()
    offered = 1000
    settings = LogSettings(format="json", queue_records=10)
    with configure_logging(settings, descriptor=pipe.writing) as handler:
        for number in range(offered):
            logger.info("%d", number)
        # That this line is reached is the point: nobody has read anything yet.
        assert handler.statistics() == LogStatistics(
            offered=offered, written=0, dropped=offered - 10, waiting=10
        )
        pipe.drain(filled)
        wait_until(handler, written=10)
        logger.info("after")
    assert messages(pipe.read_to_end()) == [
        *(str(number) for number in range(10)),
        "990 log records were dropped: they came faster than stderr took them",
        "after",
    ]
    assert handler.statistics() == LogStatistics(
        offered=offered + 1, written=11, dropped=offered - 10, waiting=0
    )


def test_the_queue_is_bounded_in_bytes_too(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker.logs.QUEUE_LIMIT_BYTES", 30_000)
    filled = pipe.fill()
    with configure_logging(LogSettings(), descriptor=pipe.writing) as handler:
        for _ in range(10):
            logger.info("x" * 10_000)
        assert handler.statistics() == LogStatistics(offered=10, written=0, dropped=7, waiting=3)
        pipe.drain(filled)
    assert "7 log records were dropped" in pipe.read_to_end().splitlines()[-1]


def test_nothing_is_lost_or_torn_when_many_threads_log_to_a_slow_reader(pipe: Pipe) -> None:
    threads, each = 4, 200

    def log(name: int) -> None:
        for number in range(each):
            logger.info("%d %d %s", name, number, "ñ" * (number * 20))

    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_to_end()))
    with configure_logging(
        LogSettings(format="json", queue_records=20), descriptor=pipe.writing
    ) as handler:
        pipe.close_writing()
        reader.start()
        loggers = [threading.Thread(target=log, args=(name,)) for name in range(threads)]
        for thread in loggers:
            thread.start()
        for thread in loggers:
            thread.join(DEADLINE_S)
    reader.join(DEADLINE_S)
    statistics = handler.statistics()
    lines = [json.loads(line) for line in received[0].splitlines()]
    records = [line["message"] for line in lines if "dropped" not in line]
    assert statistics.offered == threads * each
    assert statistics.written + statistics.dropped == threads * each
    assert len(records) == statistics.written
    for name in range(threads):
        numbers = [int(text.split()[1]) for text in records if text.startswith(f"{name} ")]
        assert numbers == sorted(set(numbers))
    assert sum(int(line["message"].split()[0]) for line in lines if "dropped" in line) == (
        statistics.dropped
    )


def test_a_reader_that_is_gone_costs_only_the_log(pipe: Pipe) -> None:
    pipe.close_reading()
    with configure_logging(LogSettings(), descriptor=pipe.writing) as handler:
        for number in range(5):
            logger.info("%d", number)
    assert handler.statistics() == LogStatistics(offered=5, written=0, dropped=5, waiting=0)


def test_a_closed_stderr_costs_only_the_log(pipe: Pipe) -> None:
    closed = pipe.writing
    pipe.close_writing()
    with configure_logging(LogSettings(), descriptor=closed) as handler:
        logger.info("nobody hears this")
    assert handler.statistics() == LogStatistics(offered=1, written=0, dropped=1, waiting=0)


def test_the_log_goes_where_it_went_when_it_was_configured(pipe: Pipe) -> None:
    other = Pipe()
    with configure_logging(LogSettings(format="json"), descriptor=pipe.writing):
        os.dup2(other.writing, pipe.writing)  # the number now belongs to somebody else
        logger.info("hello")
    pipe.close_writing()
    assert messages(pipe.read_to_end()) == ["hello"]
    assert other.read_to_end() == ""
    other.close_reading()


def test_a_pipe_that_somebody_made_non_blocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    filled = pipe.fill()
    os.set_blocking(pipe.writing, False)
    with configure_logging(LogSettings(format="json"), descriptor=pipe.writing):
        logger.info("y" * 10_000)
        pipe.drain(filled)
        logger.info("z")
    assert messages(pipe.read_to_end()) == ["y" * 10_000, "z"]


def test_a_record_that_is_logged_after_the_end_is_counted(pipe: Pipe) -> None:
    with configure_logging(LogSettings(), descriptor=pipe.writing) as handler:
        pass
    handler.handle(logging.makeLogRecord({"msg": "late"}))
    handler.close()
    assert handler.statistics() == LogStatistics(offered=1, written=0, dropped=1, waiting=0)
    assert pipe.read_to_end() == ""


def test_logging_while_a_record_is_being_formatted(pipe: Pipe) -> None:
    class Talkative:
        def __str__(self) -> str:
            logger.info("inner")
            return "outer"

    with configure_logging(LogSettings(format="json"), descriptor=pipe.writing) as handler:
        # Straight to it: pytest's own handlers would format the record again.
        handler.handle(logging.makeLogRecord({"msg": Talkative()}))
    assert messages(pipe.read_to_end()) == ["inner", "outer"]
    assert handler.statistics() == LogStatistics(offered=2, written=2, dropped=0, waiting=0)


BLOCKED_AT_EXIT = """
import logging
from tracker.logs import configure_logging
from tracker.settings import LogSettings

with configure_logging(LogSettings()) as handler:
    for number in range(5000):
        logging.getLogger("tracker").info("%d %s", number, "x" * 100)
    print("logged", flush=True)
statistics = handler.statistics()
assert statistics.offered == statistics.written + statistics.dropped, statistics
assert statistics.dropped > 0
print("ended", flush=True)
"""


@pytest.mark.slow
def test_a_blocked_stderr_does_not_hold_the_process_at_its_end() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED_AT_EXIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        # stderr is never read
        assert process.stdout.read() == b"logged\nended\n"
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.communicate()


ANY_LOCALE = f"""
import logging
from tracker.logs import configure_logging
from tracker.settings import LogSettings

for format in ("text", "json"):
    with configure_logging(LogSettings(format=format)):
        logging.getLogger("tracker").info({STARTED!a})
"""


def test_any_locale() -> None:
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", ANY_LOCALE],
        env={**os.environ, **locale, "PYTHONIOENCODING": "ascii:strict"},
        stderr=subprocess.PIPE,
        timeout=DEADLINE_S,
        check=True,
    )
    text, line = ended.stderr.decode().splitlines()
    assert text.endswith(f"tracker: {STARTED}")
    assert f'"message":"{STARTED}"' in line


def test_logging_in_a_signal_handler(pipe: Pipe) -> None:
    """The lock is the thread's own, so a handler that interrupts a record can log."""
    interrupted = signal.signal(signal.SIGUSR1, lambda *_: logger.info("signal"))
    try:
        with configure_logging(LogSettings(format="json"), descriptor=pipe.writing) as handler:
            with handler.lock:  # type: ignore[union-attr]  # a Handler has one
                os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(handler, written=1)
    finally:
        signal.signal(signal.SIGUSR1, interrupted)
    assert messages(pipe.read_to_end()) == ["signal"]
