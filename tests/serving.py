"""A real `tracker serve`: a process of its own, on a free port, from its start to its end.

All calls block, with absolute deadlines; a test in Trio makes them before and after its own
work, or in a worker thread.
"""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import msgspec

from tests.raw import Wire

DEADLINE_S = 20.0
POLL_S = 0.005

_LISTENS = re.compile(r" listens on https?://127\.0\.0\.1:(\d+)")
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


def wait_until(is_true: Callable[[], bool], what: str, *, within_s: float = DEADLINE_S) -> None:
    """Return once the condition holds. Raises: AssertionError when it does not come to that."""
    deadline = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


class Statistics(msgspec.Struct):
    """The three numbers that PROTOCOL A5 promises."""

    total_messages_processed: int
    active_subscribers: int
    devices_being_monitored: int


class Serving:
    """A running gateway.

    `flags` go behind `tracker serve`; `environment` holds settings such as
    `TRACKER_STREAM__PING_S`. Nothing else of the caller's settings reaches it: it runs in
    `directory`, with no `TRACKER_…` variable of ours. `trust`: it has TLS; ask it with this.
    """

    def __init__(
        self,
        directory: Path,
        mqtt_url: str,
        *flags: str,
        environment: Mapping[str, str] = MappingProxyType({}),
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._trust = trust
        self._log = directory / f"serve-{time.monotonic_ns()}.log"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TRACKER_")}
        command = [sys.executable, "-m", "tracker", "serve", "--mqtt-url", mqtt_url]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--bind", "127.0.0.1:0", *flags],
                cwd=directory,
                env=inherited | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.port = 0
        self.listening_since_s = 0.0  # of `time.monotonic()`

    def __enter__(self) -> Self:
        try:
            self.wait_listening()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that it wrote so far, to stdout and stderr."""
        return self._log.read_bytes().decode()

    def lines(self, containing: str) -> list[str]:
        """The lines of its log that contain a text."""
        whole_lines = self.log.rpartition("\n")[0].splitlines()
        return [line for line in whole_lines if containing in line]

    def wait_line(self, containing: str) -> str:
        """Wait for a line of its log; return the first such."""
        self.wait_until(lambda: bool(self.lines(containing)), f"a line with {containing!r}")
        return self.lines(containing)[0]

    def wait_until(
        self, is_true: Callable[[], bool], what: str, *, within_s: float = DEADLINE_S
    ) -> None:
        """Wait for a condition. Raises: AssertionError, with the log, when it does not hold."""
        try:
            wait_until(is_true, what, within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\nthe gateway said:\n{self.log}") from None

    def wait_listening(self) -> None:
        """Wait until it says where it listens."""

        def is_listening() -> bool:
            assert self.process.poll() is None, f"it ended: {self.log}"
            return _LISTENS.search(self.log) is not None

        self.wait_until(is_listening, "listening")
        found = _LISTENS.search(self.log)
        assert found is not None
        self.port = int(found[1])
        self.listening_since_s = time.monotonic()

    def wait_ready(self) -> Self:
        """Wait until `/readyz` answers 200."""
        self.wait_until(lambda: self.get("/readyz")[0] == 200, "/readyz answers 200")
        return self

    def get(self, path: str) -> tuple[int, bytes]:
        """The status and the body of a GET request, on a connection of its own."""
        with Wire(self.port, trust=self._trust) as wire:
            wire.send(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            head, _, body = wire.read_to_end().partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body

    def statistics(self) -> Statistics:
        """What `/api/v1/stream/stats` says."""
        return msgspec.json.decode(self.get("/api/v1/stream/stats")[1], type=Statistics)

    def wait_subscribers(self, count: int, *, within_s: float = DEADLINE_S) -> None:
        """Wait until there are so many live (connection, device id) pairs."""
        self.wait_until(
            lambda: self.statistics().active_subscribers == count,
            f"{count} active subscribers",
            within_s=within_s,
        )

    def wait_processed(self, count: int) -> None:
        """Wait until so many messages were published since the start."""
        self.wait_until(
            lambda: self.statistics().total_messages_processed == count,
            f"{count} messages processed",
        )

    def metric(self, name: str, labels: str = "") -> float:
        """One sample of `/metrics`, for example `tracker_closed_total`, `reason="stalled"`."""
        return self.metrics()[name, labels]

    def metrics(self) -> dict[tuple[str, str], float]:
        """Every sample of `/metrics`, by (name, labels)."""
        samples = {}
        for line in self.get("/metrics")[1].decode().splitlines():
            if sample := _SAMPLE.fullmatch(line):
                samples[sample[1], sample[2] or ""] = float(sample[3])
        return samples

    def open_files(self) -> int:
        """How many descriptors it has open, between requests."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss_bytes(self) -> int:
        """Its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    def pause(self) -> None:
        """Freeze it: what is sent to it meanwhile waits in the kernel."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """End it as an operator does; return its exit code."""
        self.ask_to_stop()
        return self.wait_stopped()

    def ask_to_stop(self) -> None:
        """Begin the orderly end; a second time ends it at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait_stopped(self) -> int:
        """Wait for its end; return its exit code."""
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """End it at once, whatever state it is in."""
        self.process.kill()
        self.process.wait(DEADLINE_S)
