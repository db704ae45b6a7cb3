"""A real mosquitto for a test: on a free port, killed, stopped and restarted at will.

A test module gets the fixtures with
`from tests.mosquitto import broker, start_mosquitto` in its `conftest.py`.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

START_DEADLINE_S = 10.0
STOP_DEADLINE_S = 10.0


def free_port() -> int:
    """Return a TCP port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def mosquitto_binary() -> str:
    """Return the path of mosquitto. Without it, the test is skipped, or fails when `CI` is true."""
    path = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail("mosquitto is not installed; expected Debian's package mosquitto")
        pytest.skip("mosquitto is not installed")
    return path


def write_password(path: Path, username: str, password: str) -> None:
    """Write a password file with one user."""
    subprocess.run(["mosquitto_passwd", "-b", "-c", path, username, password], check=True)
    path.chmod(0o600)


class Mosquitto:
    """A mosquitto process that listens on `port` of 127.0.0.1, and keeps that port over restarts.

    `listener` are configuration lines for that port (TLS), `websocket` those of a second one
    for WebSockets at `websocket_port` (mosquitto 2.0 does not start with such a one alone),
    `extra` lines for all else. Anybody may connect unless `anonymous` is false.
    """

    def __init__(
        self,
        directory: Path,
        *,
        listener: str = "",
        websocket: str | None = None,
        extra: str = "",
        anonymous: bool = True,
        port: int | None = None,
    ) -> None:
        self.port = port or free_port()
        self.websocket_port = None if websocket is None else free_port()
        self._binary = mosquitto_binary()
        self._config = directory / f"mosquitto-{self.port}.conf"
        self._log = directory / f"mosquitto-{self.port}.log"
        self._config.write_text(
            "\n".join(
                [
                    # Started by root, it would become a user who cannot read `directory`.
                    f"user {getpass.getuser()}",
                    "persistence false",
                    "max_queued_messages 0",  # its default drops from the thousandth on
                    "max_inflight_messages 0",
                    f"allow_anonymous {str(anonymous).lower()}",
                    f"listener {self.port} 127.0.0.1",
                    listener,
                    *(
                        []
                        if websocket is None
                        else [
                            f"listener {self.websocket_port} 127.0.0.1",
                            "protocol websockets",
                            websocket,
                        ]
                    ),
                    extra,
                    "",
                ]
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker's URL, for a plain listener."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """All that this and earlier processes logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        assert self._process is None, "it runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-c", str(self._config), "-v"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_DEADLINE_S
        ports = [self.port] if self.websocket_port is None else [self.port, self.websocket_port]
        while True:
            try:
                for port in ports:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                code = self._process.poll()
                if code is not None or time.monotonic() > deadline:
                    self.kill()
                    raise RuntimeError(f"mosquitto did not start ({code=}): {self.log}") from None
                time.sleep(0.01)
            else:
                return

    def stop(self) -> None:
        """End it as an operator does, with a goodbye to its clients."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it again, on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: its connections stay open, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # it may be paused
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


StartMosquitto = Callable[..., Mosquitto]


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[StartMosquitto]:
    """Start brokers, with the arguments of `Mosquitto`; they end with the test."""
    brokers: list[Mosquitto] = []

    def start(**options: object) -> Mosquitto:
        broker = Mosquitto(tmp_path, **options)  # type: ignore[arg-type]  # passed through
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.kill()


@pytest.fixture
def broker(start_mosquitto: StartMosquitto) -> Mosquitto:
    """A broker for everybody, without TLS."""
    return start_mosquitto()
