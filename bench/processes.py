"""The processes of one run: broker, server, load. Each ends with its `with` block."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import machine
from bench.handshake import request
from bench.mark import Template
from bench.publisher import connect, publish_packet

START_LIMIT_S = 20.0
_STOP_LIMIT_S = 5.0
_PROBE_DEVICE = "999999"
_PROBE_INTERVAL_S = 0.05
ROOT = Path(__file__).parent.parent


class RunError(Exception):
    """A process of the run did not start, died, or answered nothing."""


def free_port() -> int:
    """A TCP port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: Iterable[str],
    *,
    on_cores: Iterable[int],
    log: Path,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process on some of the cores, in its log's directory; asked to end with the block.

    Of the environment, the gateway's own settings are not handed on.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TRACKER_")}
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**inherited, **(env or {})},
            cwd=log.parent,
        )
    try:
        # It has no threads yet; those that it starts inherit this.
        os.sched_setaffinity(process.pid, on_cores)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def broker(*, on_cores: Iterable[int], directory: Path) -> Iterator[int]:
    """A mosquitto; gives its port. Raises: RunError."""
    path = machine.find_program("mosquitto")
    if path is None:
        raise RunError("mosquitto is not installed; expected Debian's package mosquitto")
    port = free_port()
    config = directory / "mosquitto.conf"
    config.write_text(
        f"user {getpass.getuser()}\n"
        "persistence false\n"
        "max_queued_messages 0\n"  # its default drops from the thousandth on
        "allow_anonymous true\n"
        f"listener {port} 127.0.0.1\n"
        "set_tcp_nodelay true\n"
    )
    log = directory / "mosquitto.log"
    with running([path, "-c", str(config)], on_cores=on_cores, log=log) as process:
        _wait_listening(process, port, log)
        yield port


@contextlib.contextmanager
def server(
    command: Iterable[str],
    *,
    port: int,
    mqtt_port: int,
    on_core: int,
    directory: Path,
    env: Mapping[str, str],
) -> Iterator[int]:
    """A server under test, which hands messages on already; gives its pid. Raises: RunError."""
    log = directory / "server.log"
    with running(command, on_cores={on_core}, log=log, env=env) as process:
        _wait_listening(process, port, log)
        _wait_delivering(process, port, mqtt_port, log)
        try:
            yield process.pid
        except (OSError, RunError) as error:
            if process.poll() is None:
                raise
            raise RunError(
                f"{_command(process)} ended during the run (exit code {process.poll()}) and says: "
                f"{_end_of(log)}"
            ) from error


def _wait_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(
                    f"nothing listens on port {port}: {_command(process)} (exit code "
                    f"{process.poll()}) says: {_end_of(log)}"
                ) from None
            time.sleep(0.02)
        else:
            return


def _wait_delivering(
    process: subprocess.Popen[bytes], port: int, mqtt_port: int, log: Path
) -> None:
    """Publish until a message comes through: only then the server has its subscription."""
    template = Template(_PROBE_DEVICE)
    deadline = time.monotonic() + START_LIMIT_S
    with (
        socket.create_connection(("127.0.0.1", port), timeout=_PROBE_INTERVAL_S) as client,
        connect(mqtt_port, "bench-probe") as source,
    ):
        client.sendall(request("websocket", [_PROBE_DEVICE]))
        received = b""
        while b"MARK" not in received:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RunError(
                    f"no message came through {_command(process)} (exit code {process.poll()}): "
                    f"it answered {received!r} and says: {_end_of(log)}"
                )
            source.sendall(publish_packet(template.topic, template.fill(0, 0)))
            with contextlib.suppress(TimeoutError):
                received += client.recv(65536)


def _command(process: subprocess.Popen[bytes]) -> str:
    return " ".join(str(argument) for argument in process.args)  # type: ignore[union-attr]  # ours


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or "(nothing)"


class LoadProcess:
    """The load of one run (see `load`), as its commands. Raises: RunError, from each of them."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def do(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command, wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it says why on its log
        line = self._process.stdout.readline()
        if not line:
            raise RunError(f"the load ended at {command!r}: {_end_of(self._log)}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextlib.contextmanager
def load(
    *, on_cores: Iterable[int], directory: Path, prefix: Iterable[str] = ()
) -> Iterator[LoadProcess]:
    """The load process; all its clients are closed when the block ends.

    `prefix`: a command that starts it elsewhere.
    """
    log = directory / "load.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "bench.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
        )
    try:
        os.sched_setaffinity(process.pid, on_cores)
        yield LoadProcess(process, log)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def publisher(plan: Mapping[str, Any], *, on_cores: Iterable[int]) -> Iterator[PublisherProcess]:
    """A publisher (see `publisher`) at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.publisher", json.dumps(plan)],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        os.sched_setaffinity(process.pid, on_cores)
        yield PublisherProcess(process)
    finally:
        process.kill()
        process.wait()


class PublisherProcess:
    """A publisher at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait(self, limit_s: float) -> dict[str, Any]:
        """Wait for its end, and what it says. Raises: RunError."""
        try:
            output, _ = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"the publisher is not done {limit_s:.0f} s after its time") from None
        if self._process.returncode:
            raise RunError(f"the publisher ended with {self._process.returncode}")
        report: dict[str, Any] = json.loads(output)
        return report


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory for configurations and logs, gone with the block."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name)
